//! Patterns of `LIKE`: `%` stands for any text, `_` for any one character, `\` takes the next one as itself.

/// Whether the last backslash has nothing to escape; PostgreSQL fails on such a pattern, but only on some rows.
pub(super) fn ends_in_escape(pattern: &str) -> bool {
    let backslashes = pattern
        .bytes()
        .rev()
        .take_while(|byte| *byte == b'\\')
        .count();
    backslashes % 2 == 1
}

enum Piece {
    Any,
    One,
    Letter(char),
}

/// Whether the whole text fits the pattern. Takes at most as many steps as the product of both lengths.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pieces = pieces(pattern);
    let text: Vec<char> = text.chars().collect();
    let (mut piece, mut at) = (0, 0);
    // Where to go on when the attempt fails: behind the last `%`, one character further each time.
    let mut retry: Option<(usize, usize)> = None;
    while at < text.len() {
        let fits = match pieces.get(piece) {
            Some(Piece::Any) => {
                retry = Some((piece + 1, at));
                piece += 1;
                continue;
            }
            Some(Piece::One) => true,
            Some(Piece::Letter(letter)) => *letter == text[at],
            None => false,
        };
        if fits {
            piece += 1;
            at += 1;
            continue;
        }
        let Some((behind, from)) = retry else {
            return false;
        };
        piece = behind;
        at = from + 1;
        retry = Some((behind, from + 1));
    }
    pieces[piece..]
        .iter()
        .all(|rest| matches!(rest, Piece::Any))
}

/// The letters that every text which fits the pattern begins with.
pub(super) fn prefix(pattern: &str) -> String {
    pieces(pattern)
        .into_iter()
        .map_while(|piece| match piece {
            Piece::Letter(letter) => Some(letter),
            Piece::Any | Piece::One => None,
        })
        .collect()
}

fn pieces(pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        pieces.push(match letter {
            '%' => Piece::Any,
            '_' => Piece::One,
            '\\' => Piece::Letter(letters.next().unwrap_or('\\')),
            other => Piece::Letter(other),
        });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_sql_says() {
        let table = [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("_", "", false),
            ("_", "ß", true),
            ("a%c", "abcabc", true),
            ("a%c", "abcab", false),
            ("%b_", "abcbd", true),
            ("a\\%", "a%", true),
            ("a\\%", "ab", false),
            ("\\\\", "\\", true),
            ("%%a%%", "bab", true),
        ];
        for (pattern, text, fits) in table {
            assert_eq!(matches(pattern, text), fits, "{text:?} LIKE {pattern:?}");
        }
    }

    #[test]
    fn a_backslash_at_the_end_escapes_nothing() {
        assert!(ends_in_escape("a\\"));
        assert!(!ends_in_escape("a\\\\"));
        assert!(!ends_in_escape(""));
    }
}
