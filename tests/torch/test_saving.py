"""A model that was trained with noise, or has it attached, is saved and exported as without."""

import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, load_model, save_model

from embnoise import neftune
from embnoise_torch import attach
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import batch, llama
from tests.torch.training import trainer

IDS = batch()


def adapted():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    return peft.get_peft_model(llama(), config)


def trained(folder, model):
    """The model of a run, and a clean copy of it."""
    trainer(folder, model, NoiseCallback(neftune(alpha=50.0)), max_steps=1).train()
    copy = type(model)(model.config) if not hasattr(model, "peft_config") else adapted()
    copy.load_state_dict(model.state_dict())
    return model, copy.train()


def tensors(folder):
    """Every tensor that a folder of files contains, and the names of the files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {path.name: load_file(path) for path in files if path.suffix == ".safetensors"}
    return {path.name for path in files} - {"README.md"}, {
        name: tensor for part in found.values() for name, tensor in part.items()
    }


@pytest.fixture(params=["trained", "attached"])
def noised(request):
    """A function that attaches noise to the model, or does nothing to one that had it."""
    handles = []

    def put(model):
        if request.param == "attached":
            handles.append(attach(model, neftune(alpha=50.0)))
        return model

    yield put
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("make", [llama, adapted])
def test_files_are_those_without_noise(tmp_path, noised, make):
    model, clean = trained(tmp_path / "run", make())
    model = noised(model)
    with warnings.catch_warnings(action="ignore"):  # of the adapter on the embedding
        for name, each in (("noisy", model), ("clean", clean)):
            each.save_pretrained(tmp_path / name)
    (files, saved), (same_files, same) = (tensors(tmp_path / name) for name in ("noisy", "clean"))
    assert files == same_files
    assert saved.keys() == same.keys()
    assert all(torch.equal(saved[name], same[name]) for name in saved)
    assert list(model.state_dict()) == list(clean.state_dict())


def test_what_is_loaded_has_no_noise(tmp_path, noised):
    model, clean = trained(tmp_path / "run", llama())
    model = noised(model)
    model.save_pretrained(tmp_path / "saved")
    save_model(model, str(tmp_path / "model.safetensors"))
    expected = clean(IDS).logits
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").train()
    other = llama()
    load_model(other, str(tmp_path / "model.safetensors"))
    for each in (loaded, other):
        assert torch.equal(each(IDS).logits, expected)


def test_a_merged_adapter_has_no_noise(tmp_path, noised):
    model, clean = trained(tmp_path / "run", adapted())
    merged = noised(model).merge_and_unload().eval()
    assert torch.equal(merged(IDS).logits, clean.merge_and_unload().eval()(IDS).logits)


@pytest.mark.sweep
def test_exported_programs_are_those_without_noise(tmp_path, noised):
    model, clean = trained(tmp_path / "run", llama())
    model, clean = noised(model).eval(), clean.eval()
    programs = [
        torch.export.export(each, (IDS,), {"use_cache": False}, strict=False)
        for each in (model, clean)
    ]
    left, right = ([node.target for node in program.graph.nodes] for program in programs)
    assert list(map(str, left)) == list(map(str, right))
    assert list(programs[0].state_dict) == list(programs[1].state_dict)
    torch.export.save(programs[0], tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.equal(loaded(IDS, use_cache=False).logits, clean(IDS, use_cache=False).logits)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")  # what the exporter says is not our subject
def test_onnx(tmp_path, noised):
    pytest.importorskip("onnxscript")
    model, clean = trained(tmp_path / "run", llama())

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids, use_cache=False).logits

    models = (
        torch.onnx.export(Logits(each).eval(), (IDS,), dynamo=True).model_proto
        for each in (noised(model), clean)
    )
    left, right = ([node.op_type for node in each.graph.node] for each in models)
    assert left == right
