"""Whatever happens to a bundle's bytes, its reader gives the same bundle or says BadBundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrcompress.bundles.bundle import Bundle, read_bundle
from asrcompress.errors import BadBundle


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    return make_bundle()


edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "drop"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    for kind, place, value in changes:
        at = int(place * max(1, len(data)))
        if kind == "flip":
            data = data[:at] + bytes([data[at] ^ (value or 1)]) + data[at + 1 :] if data else data
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + bytes([value]) + data[at:]
        else:
            data = data[:at] + data[at + 1 :]
    return data


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=edits, which=st.integers(0, 10))
def test_any_edit_of_any_file_is_refused(
    bundle: Bundle, tmp_path: Path, changes: Any, which: int
) -> None:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle.path, copy)
    files = sorted(copy.iterdir())
    path = files[which % len(files)]
    before = path.read_bytes()
    path.write_bytes(edited(before, changes))
    if path.read_bytes() == before:
        assert read_bundle(copy).manifest == bundle.manifest
    else:
        with pytest.raises(BadBundle):
            read_bundle(copy)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_for_bundle_json_are_refused(
    bundle: Bundle, tmp_path: Path, content: bytes
) -> None:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle.path, copy)
    (copy / "bundle.json").write_bytes(content)
    with pytest.raises(BadBundle):
        read_bundle(copy)
