//! The page of `soe report`, opened in a browser where there is one.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Scratch, plan, simulated, soe};

/// Where Debian and others put it.
const BROWSERS: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/// What the page has become once its script has run; `None` where there is no browser.
fn opened(page: &str) -> Option<(String, Duration)> {
    let Some(browser) = BROWSERS.into_iter().find(|browser| Path::new(browser).exists()) else {
        eprintln!("not tested in a browser: none of {BROWSERS:?} is here");
        return None;
    };
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("profile-{}-{}", std::process::id(), page.len()));
    let started = Instant::now();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--virtual-time-budget=60000", "--window-size=1400,1400", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{page}"))
        .output()
        .unwrap();
    let took = started.elapsed();
    let _ = std::fs::remove_dir_all(&profile);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((String::from_utf8(output.stdout).unwrap(), took))
}

fn report(name: &str, capture: &[u8], options: &[&str]) -> Scratch {
    let file = Scratch::new(&format!("{name}.pcapng"), capture);
    let page = Scratch::new(&format!("{name}.html"), b"");
    let output = soe(&[&["report", file.path(), "-o", page.path()], options].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    page
}

#[test]
fn the_page_shows_what_the_capture_holds() {
    let mut plan = plan("star-wars-galaxies");
    plan.loss = 0.05;
    let (capture, written) = simulated(&plan);
    let page = report("shows", &capture, &[]);
    let Some((dom, _)) = opened(page.path()) else { return };
    assert!(dom.contains("data-ready="), "the script did not come to its end");
    assert!(dom.contains("10.0.0.1:50000 to 10.0.0.2:20060 · star-wars-galaxies"));
    assert!(dom.contains(r#"class="row""#) && dom.contains("channel 0"), "no messages");
    assert!(dom.contains(r#"class="row s0""#) && dom.contains("resent"), "no findings");
    let datagrams = dom.split("<td>datagrams</td><td>").nth(1).and_then(|rest| rest.split('<').next());
    let to_server: u64 = datagrams.unwrap().replace(',', "").parse().unwrap();
    assert!(to_server > 100 && to_server < written.datagrams);
}

#[test]
fn the_page_needs_no_network_and_asks_for_none() {
    let (capture, _) = simulated(&plan("version3"));
    let page = report("alone", &capture, &[]);
    let text = std::fs::read_to_string(page.path()).unwrap();
    assert!(text.contains("default-src 'none'"));
    for address in ["http:", "https:", " src=", "@import", "url("] {
        assert!(!text.contains(address), "the page mentions {address}");
    }
}

#[test]
fn a_page_of_100_000_datagrams_opens() {
    let mut large = plan("version3");
    (large.loss, large.messages, large.longest, large.bytes) = (0.01, 100, 1200, 24_000_000);
    let (capture, written) = simulated(&large);
    assert!(written.datagrams > 100_000, "only {}", written.datagrams);
    let page = report("large", &capture, &["--max-datagrams", "100000"]);
    let Some((dom, took)) = opened(page.path()) else { return };
    let ready = dom.split("data-ready=\"").nth(1).and_then(|rest| rest.split('"').next());
    println!("100,000 datagrams: ready after {} ms, the browser's start and end included {took:?}", ready.unwrap());
    assert!(dom.contains("datagrams are left out of this page"));
}

#[test]
fn a_capture_without_a_session_gives_no_page() {
    let (capture, _) = simulated(&plan("version3"));
    let file = Scratch::new("nothing.pcapng", &capture[..48]);
    let page = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nothing.html");
    let output = soe(&["report", file.path(), "-o", page.to_str().unwrap()]);
    assert_eq!((output.status.code(), page.exists()), (Some(3), false));
}

/// Does what a reader does, and writes down what is seen.
const READER: &str = r##"<pre id="seen"></pre><script>
(async () => {
  while (!document.documentElement.dataset.ready) await new Promise(resume => setTimeout(resume, 20));
  const seen = [], note = (name, value) => seen.push(name + "=" + value);
  const set = (id, value) => {
    element(id).value = value;
    element(id).dispatchEvent(new Event("input"));
  };
  note("all", element("messageCount").textContent);
  set("filterLength", 100);
  note("long", element("messageCount").textContent);
  set("filterLength", 0);
  set("filterCarrier", 1);
  note("carriers", [...document.querySelectorAll("#messageRows .row")].every(row => row.textContent.includes("channel 1")));
  set("filterCarrier", "");
  document.querySelector("#messageRows .row").click();
  note("hex", element("hex").textContent.split("\n")[0]);
  const before = view.to - view.from, canvas = element("sequence");
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -800, clientX: 500, clientY: 200, cancelable: true }));
  note("zoomed", view.to - view.from < before / 2);
  element("filterVisible").click();
  note("visible", element("messageCount").textContent);
  canvas.dispatchEvent(new MouseEvent("dblclick"));
  note("whole", view.to - view.from === before);
  document.querySelector("[data-tab=findings]").click();
  set("filterSeverity", 2);
  note("errors", element("findingCount").textContent.split(" ")[0]);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  note("colors", new Set(new Uint32Array(pixels.buffer)).size > 8);
  element("seen").textContent = seen.join("\n");
})();
</script>"##;

#[test]
fn filters_zoom_and_bytes_work_in_the_page() {
    let mut plan = plan("version3");
    plan.loss = 0.03;
    let (capture, _) = simulated(&plan);
    let page = report("works", &capture, &[]);
    let text = std::fs::read_to_string(page.path()).unwrap().replace("</body>", &format!("{READER}</body>"));
    let page = Scratch::new("reader.html", text.as_bytes());
    let Some((dom, _)) = opened(page.path()) else { return };
    let seen = dom.split(r#"<pre id="seen">"#).nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap();
    let value = |name: &str| {
        let line = seen.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{name} is not in: {seen}"))
    };
    let count = |name: &str| -> u32 { value(name).split(' ').next().unwrap().parse().unwrap() };
    assert!(count("all") > count("long") && count("long") > 0, "{seen}");
    assert!(count("visible") < count("all"), "{seen}");
    for name in ["carriers", "zoomed", "whole", "colors"] {
        assert_eq!(value(name), "true", "{name}");
    }
    assert!(value("hex").starts_with("message 0, C&gt;S, channel"), "{}", value("hex"));
    assert_eq!(value("errors"), "0");
}
