//! The code in the README and in the guide, compiled and run. It is not in the crates themselves: a published package has no
//! files beside its own.

#[cfg(doctest)]
mod code {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("guide/login-server.md")]
    struct LoginServer;

    #[doc = include_str!("guide/migrating.md")]
    struct Migrating;

    #[doc = include_str!("guide/operating.md")]
    struct Operating;

    #[doc = include_str!("walkthrough.md")]
    struct Walkthrough;

    #[doc = include_str!("../soe-tokio/README.md")]
    struct SoeTokio;
}
