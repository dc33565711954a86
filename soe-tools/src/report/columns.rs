//! Numbers in columns, as the page reads them: little-endian, each column at a multiple of 8 bytes.

use serde_json::{Map, Value, json};

/// One column.
#[derive(Debug)]
pub(super) enum Column {
    F64(Vec<f64>),
    U32(Vec<u32>),
    U8(Vec<u8>),
}

impl Column {
    fn kind(&self) -> &'static str {
        match self {
            Self::F64(_) => "f64",
            Self::U32(_) => "u32",
            Self::U8(_) => "u8",
        }
    }

    /// Appends the column and says where it is.
    fn put(&self, out: &mut Vec<u8>) -> Value {
        out.resize(out.len().next_multiple_of(8), 0);
        let offset = out.len();
        let count = match self {
            Self::F64(values) => {
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                values.len()
            }
            Self::U32(values) => {
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                values.len()
            }
            Self::U8(values) => {
                out.extend_from_slice(values);
                values.len()
            }
        };
        json!([self.kind(), offset, count])
    }
}

/// A table of rows that are pushed and columns that are written.
#[derive(Debug)]
pub(super) struct Table<const TIMES: usize, const NUMBERS: usize, const BYTES: usize> {
    names: ([&'static str; TIMES], [&'static str; NUMBERS], [&'static str; BYTES]),
    times: [Vec<f64>; TIMES],
    numbers: [Vec<u32>; NUMBERS],
    bytes: [Vec<u8>; BYTES],
}

impl<const TIMES: usize, const NUMBERS: usize, const BYTES: usize> Table<TIMES, NUMBERS, BYTES> {
    pub(super) fn new(
        times: [&'static str; TIMES],
        numbers: [&'static str; NUMBERS],
        bytes: [&'static str; BYTES],
    ) -> Self {
        Self {
            names: (times, numbers, bytes),
            times: [const { Vec::new() }; TIMES],
            numbers: [const { Vec::new() }; NUMBERS],
            bytes: [const { Vec::new() }; BYTES],
        }
    }

    pub(super) fn push(&mut self, times: [f64; TIMES], numbers: [u32; NUMBERS], bytes: [u8; BYTES]) {
        self.times.iter_mut().zip(times).for_each(|(column, value)| column.push(value));
        self.numbers.iter_mut().zip(numbers).for_each(|(column, value)| column.push(value));
        self.bytes.iter_mut().zip(bytes).for_each(|(column, value)| column.push(value));
    }

    /// Appends the columns and says where they are, by name.
    pub(super) fn put(self, out: &mut Vec<u8>) -> Value {
        let (times, numbers, bytes) = self.names;
        let times = times.into_iter().zip(self.times.map(Column::F64));
        let numbers = numbers.into_iter().zip(self.numbers.map(Column::U32));
        let bytes = bytes.into_iter().zip(self.bytes.map(Column::U8));
        let columns = times.chain(numbers).chain(bytes);
        Value::Object(columns.map(|(name, column)| (name.to_owned(), column.put(out))).collect::<Map<_, _>>())
    }
}
