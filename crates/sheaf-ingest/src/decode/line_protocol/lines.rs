//! Cuts a body of line protocol into its lines. A quoted string may hold line breaks, so that a line of the protocol can
//! be several lines of text.

/// One line of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The number of its first line of text, from 0.
    pub(super) index: u32,
    /// Its bytes, without white space in front and without the line break.
    pub(super) bytes: &'a [u8],
}

/// The lines of a body; empty ones and comments are left out, and counted in the index.
pub(super) struct Lines<'a> {
    body: &'a [u8],
    at: usize,
    index: u32,
    rescanned: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(body: &'a [u8]) -> Lines<'a> {
        Lines {
            body,
            at: 0,
            index: 0,
            rescanned: 0,
        }
    }

    /// Where the line that starts at `start` ends: at a line break or at the end of the body.
    fn end(&mut self, start: usize) -> usize {
        let (break_at, has_quote) = first_break(self.body, start);
        if !has_quote || self.body[start] == b'#' {
            return break_at;
        }
        let (string_end, is_whole) = end_outside_strings(self.body, start);
        if is_whole {
            return string_end;
        }
        if string_end <= break_at {
            return break_at;
        }
        // A quote that is never closed, or closed in the middle of something, would take the lines after it along.
        // It is held to its own line instead, so that good lines are stored whatever the bad ones do. What was
        // looked at for nothing is looked at again; past as much as the body holds, such lines stay in one piece,
        // so that no body costs more than a few readings of it.
        self.rescanned += string_end - break_at;
        if self.rescanned > self.body.len() {
            return first_break(self.body, string_end).0;
        }
        break_at
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        while self.at < self.body.len() {
            let start = skip_space(self.body, self.at);
            if start == self.body.len() {
                self.at = start;
                break;
            }
            let end = self.end(start);
            let bytes = &self.body[start..end];
            let index = self.index;
            let breaks = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
            self.index = self
                .index
                .saturating_add(u32::try_from(breaks).unwrap_or(u32::MAX));
            self.at = end + 1;
            let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            if !bytes.is_empty() && bytes[0] != b'#' {
                return Some(Line { index, bytes });
            }
        }
        None
    }
}

/// Where the white space from `at` on ends, as the protocol has it between its parts.
pub(super) fn skip_space(bytes: &[u8], at: usize) -> usize {
    let space = bytes[at..]
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t' | 0));
    at + space.count()
}

/// The first line break from `start` on, and whether there is a quote before it.
fn first_break(body: &[u8], start: usize) -> (usize, bool) {
    let mut has_quote = false;
    for (length, byte) in body[start..].iter().enumerate() {
        match byte {
            b'\n' => return (start + length, has_quote),
            b'"' => has_quote = true,
            _ => {}
        }
    }
    (body.len(), has_quote)
}

/// The first line break that no string holds, and true; or where a string stops making sense, and false.
fn end_outside_strings(body: &[u8], start: usize) -> (usize, bool) {
    let mut at = start;
    // Measurement and tags: quotes mean nothing here.
    loop {
        match body.get(at) {
            None | Some(b'\n') => return (at, true),
            Some(b' ') => break,
            Some(b'\\') if matches!(body.get(at + 1), Some(b' ' | b',' | b'=')) => at += 2,
            Some(_) => at += 1,
        }
    }
    at = skip_space(body, at);
    // Fields: a string begins right after an equals sign. After a space comes the time, and no more quotes.
    loop {
        match body.get(at) {
            None | Some(b'\n') => return (at, true),
            Some(b' ') => return (first_break(body, at).0, true),
            Some(b'\\') if matches!(body.get(at + 1), Some(b' ' | b',' | b'=')) => at += 2,
            Some(b'=') if body.get(at + 1) == Some(&b'"') => {
                let Some(end) = string_end(body, at + 1) else {
                    return (body.len(), false);
                };
                if !matches!(body.get(end), None | Some(b',' | b' ' | b'\n' | b'\r')) {
                    return (end, false);
                }
                at = end;
            }
            Some(_) => at += 1,
        }
    }
}

/// One past the quote that closes the string whose opening quote is at `start`.
pub(super) fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
