"""Matrices of MATLAB files."""

import base64
from pathlib import Path

import numpy as np
import pytest

from clip_surgery_hub.evaluate.datasets.mat import read_mat
from tests.support.miniature_datasets import mat_file, save


def test_matlab_files_that_scipy_wrote_are_read(tmp_path: Path) -> None:
    """Written by scipy.io.savemat 1.17.1 with compression, but for the text before byte 116."""
    written = (
        "AAAAAAAAAAAAAUlNDwAAAD8AAAB4nONjYGAIAGI2IOYAYm4GCGCF8pmgbEYo3ycxKTXHN7GABcgWAcuLM3AySDIIMcgDeesZTzMygvUD"
        "ALEfBZQ="
    )
    save(tmp_path / "a.mat", bytes(116) + base64.b64decode(written))
    assert read_mat(tmp_path / "a.mat", "LabelMap").tolist() == [[2, 9, 18, 0, 459], [23, 25, 31, 431, 1]]


def test_matlab_files_of_both_orders_of_bytes_are_read(tmp_path: Path) -> None:
    data = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    sizes, name = b"\0\0\0\5\0\0\0\x08\0\0\0\1\0\0\0\3", b"\0\2\0\1ab\0\0"
    matrix = b"\0\0\0\6\0\0\0\x08\0\0\0\x0b\0\0\0\0" + sizes + name + b"\0\0\0\4\0\0\0\6\0\1\1\1\1\xcb\0\0"
    save(tmp_path / "a.mat", data + b"\0\0\0\x0e" + len(matrix).to_bytes(4, "big") + matrix)
    assert read_mat(tmp_path / "a.mat", "ab").tolist() == [[1, 257, 459]]


def test_matlab_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    good = mat_file({"LabelMap": np.ones((5, 7))})
    plain = mat_file({"LabelMap": np.ones((5, 7))}, compressed=False)
    for content, message in (
        (b"\x89HDF\r\n" + bytes(200), "is no MATLAB file of version 5"),
        (b"", "is no MATLAB file of version 5"),
        (good[:-3], "is damaged"),
        (plain[:-20], "is damaged"),
        (plain[:200], "is damaged"),
        (good[:-9] + bytes(9), "is damaged"),
        (plain[:130], "is damaged"),
        (mat_file({"Other": np.ones((2, 2))}), "has no matrix 'LabelMap'"),
        (good[:128], "has no matrix 'LabelMap'"),
    ):
        save(file, content)
        with pytest.raises(ValueError, match=rf"^The (MATLAB )?file {file} {message}"):
            read_mat(file, "LabelMap")
    with pytest.raises(FileNotFoundError, match="There is no mask .*b.mat"):
        read_mat(tmp_path / "b.mat", "LabelMap")
