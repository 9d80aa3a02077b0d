"""Paths and what they lead to."""

from __future__ import annotations

from chroma_async.server.routing import PathTable


def table(*paths: str) -> PathTable[str]:
    made: PathTable[str] = PathTable()
    for path in paths:
        made.setdefault(path, path)
    return made


def test_placeholders_take_what_stands_in_their_place() -> None:
    assert table("/a/{x}/b/{y}").find("/a/1/b/2%2F3") == ("/a/{x}/b/{y}", ["1", "2%2F3"])


def test_placeholders_of_one_place_are_one() -> None:
    paths = table("/a/{x}")
    assert paths.setdefault("/a/{name}", "other") == "/a/{x}"


def test_path_that_is_written_out_goes_first() -> None:
    paths = table("/a/{x}", "/a/count")
    assert paths.find("/a/count") == ("/a/count", [])
    assert paths.find("/a/counts") == ("/a/{x}", ["counts"])


def test_placeholder_is_tried_when_what_is_written_out_leads_nowhere() -> None:
    paths = table("/a/count", "/a/{x}/get")
    assert paths.find("/a/count/get") == ("/a/{x}/get", ["count"])


def test_given_up_placeholder_takes_nothing() -> None:
    paths = table("/{x}/b/c/d", "/a/{y}/{z}")
    assert paths.find("/a/b/c") == ("/a/{y}/{z}", ["b", "c"])
    assert paths.find("/a/b/c/d") == ("/{x}/b/c/d", ["a"])


def test_empty_segment_is_nobodys_value() -> None:
    paths = table("/a/{x}", "/a/{x}/", "/a")
    assert paths.find("/a/") is None
    assert paths.find("/a//") is None
    assert paths.find("/a/1/") == ("/a/{x}/", ["1"])
    assert paths.find("//a") is None


def test_beginning_of_a_path_is_not_a_path() -> None:
    assert table("/a/b/c").find("/a/b") is None
    assert table("/a/b").find("/a/b/c") is None
