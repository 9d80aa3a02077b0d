"""Regular expressions mean what they mean in Rust, or are refused."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import unicodedata

import pytest

from chroma_async.core.regex import PROGRAM_SIZE_MAX, PatternError, compile_regex, translate

FOUND: list[tuple[str, str, bool]] = [
    ("b", "abc", True),
    ("c$", "abc\n", False),
    (r"c\z", "abc", True),
    ("(?m)c$", "abc\n", True),
    ("^b", "a\nb", False),
    ("(?m)^b", "a\nb", True),
    ("a.b", "a\nb", False),
    ("(?s)a.b", "a\nb", True),
    ("a[^x]b", "a\nb", True),
    ("(?i)straße", "STRAßE", True),
    ("(?i)élan", "ÉLAN", True),
    (r"^\w+$", "naïve", True),
    (r"^\w+$", "αβγ_日本", True),
    (r"^\w$", "Ⓐ", True),
    (r"\W", "naïve", False),
    (r"^[\w-]+$", "naïve-té", True),
    (r"[\W]", "é", False),
    (r"[\W]", "a b", True),
    (r"[\W]", "€", True),
    (r"[^\W\d_]", "\u061c", False),
    (r"[\W]", "\u200d", False),
    (r"^\d$", "٣", True),
    (r"^\D$", "٣", False),
    (r"^[\D]$", "x", True),
    (r"a\sb", "a\u00a0b", True),
    (r"a\sb", "a\x0bb", True),
    (r"^\S$", "\u3000", False),
    (r"^[\S]$", "\u3000", False),
    (r"^[\S]$", "é", True),
    (r"^[\s]$", "\u2003", True),
    (r"\p{Greek}", "xα", True),
    (r"\P{Greek}", "α", False),
    (r"\pN", "7", True),
    ("[[:alpha:]]", "a", True),
    ("[[:^alpha:]]", "a", False),
    ("(?<n>a)(?P<m>b)", "ab", True),
    (r"\u00e9", "é", True),
    (r"\u{e9}", "é", True),
    (r"\U0001F600", "😀", True),
    (r"[\u0041-\u0043]", "B", True),
    (r"\x41\x{42}", "AB", True),
    (r"\bcat\b", "a cat.", True),
    (r"\bcat\b", "concat", False),
    (r"\b[üu]bung", "ubung", True),
    (r"\b[a]ü", "aü", True),
    (r"€\b5", "€5", True),
    (r"(?:^|[^\pL\pN])übung", "die übung", True),
    (r"a\{2\}", "a{2}", True),
    ("a{2}", "aa", True),
    ("a{2,}", "a", False),
    ("[{}]", "{", True),
    ("[]a]", "]", True),
    ("[^]a]", "]", False),
    (r"[a\]b]", "]", True),
    ("[a-]", "-", True),
    ("a&&b", "a&&b", True),
    ("a\x00b", "a\x00b", True),
    ("", "", True),
    ("x*", "", True),
    (r"\.", "a", False),
    ("(?U)a+?", "a", True),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), FOUND)
def test_pattern_is_found(pattern: str, text: str, expected: bool) -> None:
    assert (compile_regex(pattern).search(text) is not None) is expected
    assert (compile_regex(pattern).search(text.encode()) is not None) is expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "missing )"),
        ("a(?=p)", "invalid perl operator"),
        (r"(a)\1", "back-references"),
        (r"\077", "octal"),
        (r"[\1]", "octal"),
        (r"a\Z", "invalid escape"),
        ("a{,2}", r"must be escaped: write \{"),
        ("a{2", r"must be escaped: write \{"),
        (r"\b{start}", r"must be escaped: write \{"),
        ("[a&&b]", "set operations"),
        ("[a--b]", "set operations"),
        ("[a~~b]", "set operations"),
        ("[a[b]]", "classes within a class"),
        (r"\C", "not supported"),
        (r"\Qa\E", "not supported"),
        (r"\<a", r"write \b"),
        (r"\bübung", r"\b beside a letter beyond ASCII is not supported; write [^\pL\pN] or ^ in its place. got=ü"),
        (r"caf(é|e)?é\b", r"\b beside a letter"),
        (r"\B語", r"\B beside a letter"),
        ("[z-a]", "invalid character class range"),
        ("[a", "missing ]"),
        ("\\", "trailing"),
        ("*", "no argument"),
        ("a{1001}", "invalid repetition size"),
        ("(((a{100}){100}){100})", "invalid repetition size"),
        (r"\p{Nothing}", "invalid character class range"),
        (r"\ud83d\ude00", r"\ud83d is half of a surrogate pair; write the character, or its number as in \x{1F600}"),
        (r"[\x{D800}]", "half of a surrogate pair"),
        (r"\u{dfff}", "half of a surrogate pair"),
        (r"\U0000DC00", "half of a surrogate pair"),
        (r"\w{60}", "use smaller repetitions"),
    ],
)
def test_what_the_engine_lacks_is_refused_with_a_reason(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError) as caught:
        compile_regex(pattern)
    assert reason in str(caught.value)


def test_marks_of_format_are_no_words_but_the_joiners() -> None:
    marks = [chr(number) for number in range(sys.maxunicode + 1) if unicodedata.category(chr(number)) == "Cf"]
    words = [mark for mark in marks if compile_regex(r"[\W]").search(mark) is None]
    assert words == ["\u200c", "\u200d"]
    assert words == [mark for mark in marks if compile_regex(r"\W").search(mark) is None]


def test_plain_patterns_are_left_alone() -> None:
    pattern = r"^(?i:ab|c.*?)[^x-z\-]{1,3}\n\.$"
    assert translate(pattern) == pattern


def test_compiled_patterns_are_kept() -> None:
    assert compile_regex("kept") is compile_regex("kept")


def test_a_pattern_that_explodes_elsewhere_takes_linear_time() -> None:
    begin = time.perf_counter()
    assert compile_regex("(a+)+(a+)+(a+)+$").search("a" * 50_000 + "b") is None
    assert time.perf_counter() - begin < 5
    assert PROGRAM_SIZE_MAX < 100_000


def test_patterns_that_need_much_memory_leave_little_of_it_behind() -> None:
    """Each of these fills the 2.7 MB that it may, and anybody who may read can send as many as he likes."""
    program = (
        "import random\n"
        "from pathlib import Path\n"
        "from chroma_async.core.regex import compile_regex\n"
        "document = ''.join(random.Random(0).choices('ab', k=2_000))\n"
        "for number in range(160):\n"
        "    compile_regex(r'[ab]*a[ab]{900}c%d' % number).search(document)\n"
        "print(Path('/proc/self/statm').read_text().split()[1])\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(answer.stdout) * resource.getpagesize() < 150 * 2**20
