import datasets
import pytest
import torch

from mixcd.matter.base_model import prior_pass
from task_workspace import TASK_WORKSPACES
from tiny import make_model, make_rows, make_trainer, train_base_model
from workspace import make_workspace, save_named, write_csv


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)  # tiny models are faster so, and every float is summed in one order


@pytest.fixture(scope="session")
def base_weights():
    """Weights of a tiny classifier that is right on most prior samples."""
    return train_base_model()


@pytest.fixture
def base_model(base_weights):
    model = make_model()
    model.load_state_dict(base_weights)
    return model


@pytest.fixture(scope="session")
def tuned_weights(base_weights, tmp_path_factory):
    """Weights of the tiny classifier after plain fine-tuning, which costs the prior samples from token 20 on most."""
    model = make_model()
    model.load_state_dict(base_weights)
    make_trainer(model, make_rows(240, seed=2, task="new"), tmp_path_factory.mktemp("tuned"), max_steps=40).train()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def tuned_model(tuned_weights):
    model = make_model()
    model.load_state_dict(tuned_weights)
    return model


@pytest.fixture(scope="session")
def prior_data():
    return make_rows(600, seed=1, task="prior")


@pytest.fixture(scope="session")
def new_data():
    return make_rows(240, seed=2, task="new")


@pytest.fixture
def workspace(base_weights, tmp_path, monkeypatch):
    """A user's folder, which is the working directory; the data sets' cache lies in it, too."""
    make_workspace(tmp_path, base_weights)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prior_pass, "LEAST_PART_SIZE", 256)  # so that small data have several parts
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-datasets")
    return tmp_path


@pytest.fixture(scope="session")
def task_base(tmp_path_factory):
    """Return a function that trains a task's tiny base model once, and says in which folder it is."""
    made = {}

    def base_of(task):
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf-datasets")
                made[task] = TASK_WORKSPACES[task].train_base(folder, task)
        return made[task]

    return base_of


@pytest.fixture
def task_workspace(task_base, tmp_path, monkeypatch):
    """Return a function that makes the working directory a user's folder of a task."""

    def make(task):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-datasets")
        TASK_WORKSPACES[task].write(tmp_path, task, task_base(task))
        return tmp_path

    return make


@pytest.fixture
def folders(workspace, tuned_model):
    """A user's folder with `base/`, a plainly fine-tuned model in `tuned/`, and prior samples in `held.csv`."""
    save_named(tuned_model, workspace / "tuned")
    write_csv(workspace / "held.csv", make_rows(800, seed=5, task="prior"))
    return workspace
