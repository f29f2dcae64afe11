import _thread
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "notebooks"))
import build


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_notebook_that_cannot_be_written_leaves_the_old_one_whole(tmp_path, monkeypatch, error):
    path = tmp_path / "01_lesson.ipynb"
    build.write_notebook(nbformat.v4.new_notebook(), path)
    whole = path.read_bytes()

    def break_off(notebook, file):
        Path(file).write_bytes(whole[:10])
        raise error

    monkeypatch.setattr(nbformat, "write", break_off)
    with pytest.raises(type(error)):
        build.write_notebook(nbformat.v4.new_notebook(), path)
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_ctrl_c_ends_with_one_line(monkeypatch, capfd):
    class Stopped(BaseException):
        pass

    def end(status):
        raise Stopped(status)

    monkeypatch.setattr(os, "_exit", end)
    # In a cell, when the reader presses Ctrl-C: Python tells the main thread, as it does then.
    client = SimpleNamespace(execute=lambda **_: _thread.interrupt_main())
    with pytest.raises(Stopped, match="130"):
        build._execute(client)
    assert capfd.readouterr().err == "\nstopped; nothing is half-written\n"
