"""Where the example's documents come from."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from docanalysis.documents import MAX_CHARS, DocumentError, Skipped, installed_packages, read_paths
from rayflow.ids import check_id


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_installed_packages_are_dozens_of_real_documents_in_a_stable_order() -> None:
    found = installed_packages()
    names = [document.source.removeprefix("package:").split("==")[0] for document in found.documents]
    assert len(names) > 20
    assert names == sorted(set(names))
    assert len({document.id for document in found.documents}) == len(names)
    assert all(document.text.strip() for document in found.documents)
    assert found == installed_packages()


def test_a_package_is_named_by_its_metadata() -> None:
    pydantic = next(d for d in installed_packages().documents if d.source.startswith("package:pydantic=="))
    assert pydantic.title == f"pydantic {version('pydantic')}"
    assert pydantic.source == f"package:pydantic=={version('pydantic')}"
    assert pydantic.media_type == "text/markdown"
    assert "Pydantic" in pydantic.text


def test_ids_can_be_execution_ids(tmp_path: Path) -> None:
    write(tmp_path, {"überlange namen/" + "x" * 200 + ".md": "a", "日本.md": "b", "a b (c).md": "c"})
    for document in (*read_paths([tmp_path]).documents, *installed_packages().documents):
        assert check_id("execution", f"analyse:{document.id}")


def test_a_folder_gives_its_text_files_at_any_depth_in_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "b.md": "# b",
            "a.txt": "a",
            "deep/er/c.rst": "c",
            "deep/d.HTML": "<p>d",
            "deep/program.py": "1",
            ".hidden.md": "no",
            ".git/e.md": "no",
        },
    )
    found = read_paths([tmp_path])
    assert [(d.title, d.text, d.media_type) for d in found.documents] == [
        ("a.txt", "a", "text/plain"),
        ("b.md", "# b", "text/markdown"),
        ("d.HTML", "<p>d", "text/html"),
        ("c.rst", "c", "text/x-rst"),
    ]
    assert found.skipped == ()


def test_a_named_file_is_read_whatever_its_name_ends_in(tmp_path: Path) -> None:
    write(tmp_path, {"NOTICE": "hello\r\nworld"})
    (document,) = read_paths([tmp_path / "NOTICE"]).documents
    assert (document.text, document.media_type) == ("hello\nworld", "text/plain")


def test_a_file_named_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "a"})
    (tmp_path / "link.md").symlink_to(tmp_path / "a.md")
    assert len(read_paths([tmp_path / "a.md", tmp_path, str(tmp_path / "a.md")]).documents) == 1


def test_the_id_changes_with_the_text_and_with_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "one"})
    (before,) = read_paths([tmp_path]).documents
    (again,) = read_paths([tmp_path / "a.md"]).documents
    write(tmp_path, {"a.md": "two"})
    (after,) = read_paths([tmp_path]).documents
    assert before == again
    assert before.id != after.id
    assert before.id.startswith("file:a.md:")


def test_what_is_not_text_is_left_out_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, {"good.md": "text", "latin.txt": b"caf\xe9", "zero.txt": b"a\0b", "empty.md": " \n"})
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere")
    found = read_paths([tmp_path])
    assert [document.title for document in found.documents] == ["good.md"]
    assert [(Path(left.source).name, left.reason) for left in found.skipped] == [
        ("empty.md", "it is empty"),
        ("gone.md", "it cannot be read: No such file or directory"),
        ("latin.txt", "it is not UTF-8 text"),
        ("zero.txt", "it is binary"),
    ]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": b"\xef\xbb\xbf# a"})
    assert read_paths([tmp_path]).documents[0].text == "# a"


@pytest.mark.parametrize(("size", "truncated"), [(MAX_CHARS, False), (MAX_CHARS + 1, True), (3 * MAX_CHARS, True)])
def test_a_huge_file_is_cut_and_says_so(tmp_path: Path, size: int, *, truncated: bool) -> None:
    write(tmp_path, {"huge.txt": "é" * size})
    (document,) = read_paths([tmp_path]).documents
    assert (len(document.text), document.truncated) == (MAX_CHARS, truncated)


def test_a_name_that_is_no_unicode_still_gives_one_that_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / b"caf\xe9.md".decode("utf-8", "surrogateescape")
    try:
        path.write_text("text")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only Unicode names")
    (document,) = read_paths([tmp_path]).documents
    assert document.title == "caf?.md"
    assert document.source.encode().endswith(b"caf?.md")


def test_errors_say_what_is_wrong_and_where(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no path was named"):
        read_paths([])
    with pytest.raises(DocumentError, match=r"there is no file or folder 'no/such\.md'"):
        read_paths(["no/such.md"])
    write(tmp_path, {"program.py": "1"})
    with pytest.raises(DocumentError, match=r"no readable text in .*: none of its files ends in \.htm, \.html"):
        read_paths([tmp_path])
    write(tmp_path, {f"{n}.txt": b"\xff" for n in "abcd"})
    with pytest.raises(DocumentError, match=r"Left out: .*a\.txt: it is not UTF-8 text; .*; and 1 more"):
        read_paths([tmp_path])


def test_one_missing_path_among_good_ones_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "a"})
    with pytest.raises(DocumentError, match="missing"):
        read_paths([tmp_path / "a.md", tmp_path / "missing"])


def test_packages_without_a_description_are_left_out_with_the_reason() -> None:
    assert (
        Skipped(f"package:protobuf=={version('protobuf')}", "the package has no description")
        in installed_packages().skipped
    )
