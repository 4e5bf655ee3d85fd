import subprocess
import sys

import pytest

from mixcd.words.errors import FolderInUseError
from mixcd.words.files import lock_folder

HOLD = """import sys, pathlib, time
from mixcd.words.files import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)"""


def test_a_second_writer_is_refused_until_the_first_lets_go(tmp_path):
    folder = tmp_path / "run"
    refused = pytest.raises(FolderInUseError, match="is in use by another run.*Two runs must not")
    with lock_folder(folder), refused, lock_folder(folder):
        pass
    with lock_folder(folder):
        assert folder.is_dir()


def test_the_lock_dies_with_its_process(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError), lock_folder(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with lock_folder(tmp_path):
            pass
