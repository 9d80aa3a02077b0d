r"""Regular expressions that can't hang a server: Rust's syntax, as Chroma has it, on google-re2's linear-time engine.

A pattern is translated before it is compiled, so that one which both engines accept means the same in both:

- `\d`, `\s`, `\w` and their negations are Unicode classes, as in Rust, while RE2's own know ASCII only;
- `\u1234`, `\U00012345`, `\u{12}` are written as `\x{...}`;
- what RE2 would silently read differently is refused: set operations and nested classes (`[a&&b]`, `[a[b]]`), a `{` that
  begins no repetition (`a{,2}`), octal escapes and back-references (`\1`), `\Q`, `\E`, `\C`, `\<`, `\>`, halves of surrogate
  pairs (`\ud83d`), and `\b` or `\B` beside a letter beyond ASCII (`\bübung`).

The flags are RE2's defaults, which are Rust's too: `.` excludes newline, `^` and `$` are the ends of the text and `$` does
not match before a final newline, `(?i)`, `(?m)`, `(?s)`, `(?U)` switch as usual, `\z` and `\p{Greek}` work.

What remains different from Rust: `\b` and `\B` see ASCII words only, where the pattern does not tell (`\b\w`); `[\W]`
*inside* a class counts circled letters as non-words, and unassigned characters as words; what Rust refuses is accepted
where it is harmless (`\p{^Lu}`, `(?i-i)`, `[\d-a]`); `(?x)`, `(?u)`, `(?R)`, doubled repetitions (`a++`), loose property
names (`\p{Alphabetic}`, `\p{sc=Greek}`) and repetitions above 1000 are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol, cast

from chroma_async.errors import UnimplementedError

__all__ = ["PATTERN_LENGTH_MAX", "PROGRAM_SIZE_MAX", "PatternError", "Regex", "compile_regex", "translate"]

PATTERN_LENGTH_MAX: Final = 10_000
"""Characters of a pattern."""

PROGRAM_SIZE_MAX: Final = 50_000
"""RE2 instructions; time per document is at worst proportional to this times its length. One `\\w` takes about 1,400."""

_MEMORY_BYTES_MAX: Final = 8 << 20
_CACHED_PATTERNS: Final = 32
"""A pattern of few characters can fill several MB while it is searched for, and keeps them."""


class PatternError(ValueError):
    """A pattern that the caller must change; the message says why."""


class Regex(Protocol):
    """A compiled pattern. `search` returns None when the pattern is nowhere in the text (UTF-8 when it is bytes)."""

    def search(self, text: str | bytes) -> object | None: ...


@lru_cache(maxsize=_CACHED_PATTERNS)
def compile_regex(pattern: str) -> Regex:
    """Return the compiled pattern; safe to use from several threads.

    Raises:
        PatternError: the pattern is no regular expression, or one that is too large.
        UnimplementedError: google-re2 is not installed.
    """
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise PatternError(f"pattern is longer than {PATTERN_LENGTH_MAX} characters. length={len(pattern)}")
    compiled = _compile_with_re2(translate(pattern))
    if compiled.programsize > PROGRAM_SIZE_MAX:
        raise PatternError(f"pattern is too large; use smaller repetitions. instructions={compiled.programsize}")
    return compiled


class _Re2Regex(Regex, Protocol):
    @property
    def programsize(self) -> int: ...


def _compile_with_re2(pattern: str) -> _Re2Regex:
    try:
        import re2
    except ImportError as error:
        raise UnimplementedError("regular expressions need google-re2; install chroma-async[server]") from error
    engine = cast("Any", re2)
    options = engine.Options()
    options.never_capture = True
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES_MAX
    try:
        return cast("_Re2Regex", engine.compile(pattern, options))
    except engine.error as error:
        raise PatternError(_reason(cast("Exception", error))) from error
    finally:
        engine.purge()  # it keeps 128 patterns of its own


def _reason(error: Exception) -> str:
    reason = cast("object", error.args[0]) if error.args else "not a regular expression"
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


# Rust's \w is Alphabetic, M, Nd, Pc and Join_Control (UTS 18, annex C). Alphabetic is L, Nl and Other_Alphabetic, and the
# latter lies within M but for the circled letters.
_WORD: Final = (
    r"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}"
    r"\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}\x{200C}\x{200D}"
)
_NOT_WORD: Final = (
    r"\p{No}\p{Z}\p{S}\p{Pd}\p{Ps}\p{Pe}\p{Pi}\p{Pf}\p{Po}\p{Cc}\p{Co}"
    # \p{Cf}, but for the two of Join_Control
    r"\x{AD}\x{600}-\x{605}\x{61C}\x{6DD}\x{70F}\x{890}\x{891}\x{8E2}\x{180E}\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}"
    r"\x{2060}-\x{206F}\x{FEFF}\x{FFF9}-\x{FFFB}\x{110BD}\x{110CD}\x{13430}-\x{1343F}\x{1BCA0}-\x{1BCA3}\x{1D173}-\x{1D17A}"
    r"\x{E0001}\x{E0020}-\x{E007F}"
)
_SPACE: Final = r"\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_NOT_SPACE: Final = (
    r"\x{0}-\x{8}\x{E}-\x{1F}!-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027}\x{202A}-\x{202E}"
    r"\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF}"
)

_OUTSIDE: Final[Mapping[str, str]] = {
    r"\d": r"\p{Nd}",
    r"\D": r"\P{Nd}",
    r"\s": f"[{_SPACE}]",
    r"\S": f"[^{_SPACE}]",
    r"\w": f"[{_WORD}]",
    r"\W": f"[^{_WORD}]",
}
_INSIDE: Final[Mapping[str, str]] = {
    r"\d": r"\p{Nd}",
    r"\D": r"\P{Nd}",
    r"\s": _SPACE,
    r"\S": _NOT_SPACE,
    r"\w": _WORD,
    r"\W": _NOT_WORD,
}
_REFUSED_ESCAPES: Final[Mapping[str, str]] = {
    **dict.fromkeys((rf"\{digit}" for digit in range(10)), "back-references and octal escapes are not supported"),
    r"\C": r"\C is not supported",
    r"\Q": r"\Q...\E is not supported; escape single characters",
    r"\E": r"\Q...\E is not supported; escape single characters",
    r"\<": r"\< is not supported; write \b",
    r"\>": r"\> is not supported; write \b",
}
_TOKENS: Final = re.compile(
    r"""
      (?P<escape> \\ (?: u[0-9A-Fa-f]{4} | U[0-9A-Fa-f]{8} | [pPxuU]\{[^{}]*\} | . )? )
    | (?P<posix> \[:\^?[a-z]+:\] )
    | (?P<open> \[\^?\]? )
    | (?P<close> \] )
    | (?P<set> && | -- | ~~ )
    | (?P<counted> \{[0-9]+(?:,[0-9]*)?\} )
    | (?P<brace> \{ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBERED: Final = re.compile(r"\\[xuU]\{?([0-9A-Fa-f]+)\}?")


def translate(pattern: str) -> str:
    """Return the pattern in RE2's syntax, with the meaning that it has in Rust.

    Raises:
        PatternError: RE2 has no such thing, or would read it differently.
    """
    return "".join(_translated(pattern))


def _translated(pattern: str) -> Iterator[str]:
    inside = False
    before = ""
    for token in _TOKENS.finditer(pattern):
        kind, text = cast("str", token.lastgroup), token.group()
        if not inside:
            _refuse_blind_boundary(before, text)
            before = text
        if kind == "escape":
            yield _translate_escape(text, _INSIDE if inside else _OUTSIDE)
            continue
        if inside:
            _refuse_in_class(kind, text)
        elif kind == "brace":
            raise PatternError(r"a `{` that begins no repetition must be escaped: write \{")
        inside = (inside or kind == "open") and kind != "close"
        yield text


def _refuse_blind_boundary(before: str, text: str) -> None:
    """Refuse a word boundary between two tokens that the engine would not see."""
    for boundary, letter in ((before, text), (text, before)):
        if boundary in (r"\b", r"\B") and len(letter) == 1 and letter > "\x7f" and (letter.isalnum()):
            raise PatternError(
                rf"{boundary} beside a letter beyond ASCII is not supported; write [^\pL\pN] or ^ in its place. got={letter}"
            )


def _refuse_in_class(kind: str, text: str) -> None:
    if kind == "set":
        raise PatternError(f"set operations in a class are not supported; escape the characters. got={text}")
    if kind == "open":
        raise PatternError(r"classes within a class are not supported; escape the bracket: write \[")


def _translate_escape(text: str, classes: Mapping[str, str]) -> str:
    if text in _REFUSED_ESCAPES:
        raise PatternError(_REFUSED_ESCAPES[text])
    if text in classes:
        return classes[text]
    numbered = _NUMBERED.fullmatch(text)
    if numbered is None:
        return text
    if 0xD800 <= int(numbered[1], 16) <= 0xDFFF:
        raise PatternError(rf"{text} is half of a surrogate pair; write the character, or its number as in \x{{1F600}}")
    return rf"\x{{{numbered[1]}}}"
