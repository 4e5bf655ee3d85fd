"""What is saved is read back before it counts."""

from types import SimpleNamespace

import pytest
import torch

from mixcd.edge.model.tuned import save_tuned
from mixcd.words.errors import RunFolderError
from tiny import make_model
from workspace import make_tokenizer


def make_saver(model):
    return SimpleNamespace(model=model, processing_class=make_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_saved_as_it_is(tmp_path, dtype):
    model = make_model().to(dtype)
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan  # what was trained, however it went
    save_tuned(make_saver(model), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_that_would_be_read_back_as_another_is_not_kept(tmp_path):
    model = make_model()
    model._keys_to_ignore_on_save = {"classifier.bias"}
    with torch.no_grad():
        model.classifier.bias.add_(1)
    with pytest.raises(
        RunFolderError, match=r"model` would not hold the model .*: its weights `classifier.bias` read back"
    ):
        save_tuned(make_saver(model), tmp_path / "model")
    assert not (tmp_path / "model").exists()
