"""By an id: from the cache, from a hub that is made here, and told in one line where there is neither."""

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.models.diffusers import folder as folder_module
from tests.diffusers_models.pipelines import PIXELS, component, model, write

COMMIT = "0" * 39 + "1"
NOWHERE = "http://127.0.0.1:9"
ID = "somebody/tiny-ddpm"
# In a process of its own: the hub's address and its cache are read when its package is imported.
ASK = """
import sys
from pipeline.models.diffusers import DiffusersModel
from pipeline.registry import SpecError
for source in sys.argv[1:]:
    try:
        print(DiffusersModel(*source.split("@")).hash)
    except SpecError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    unet, scheduler = component("UNet2DModel", **PIXELS), component("DDPMScheduler")
    made = write(tmp_path_factory.mktemp("ddpm"), "DDPMPipeline", unet=unet, scheduler=scheduler)
    for other in ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin",
                  "text_encoder/config.json"):  # fmt: skip
        (made / other).parent.mkdir(exist_ok=True)
        (made / other).write_text("not wanted")
    return made


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as a download needs."""

    folder: Path
    fetched: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        names = sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())
        if path.startswith(f"/api/models/{ID}/tree/"):
            sizes = {name: (self.folder / name).stat().st_size for name in names}
            self.answer([{"type": "file", "path": n, "size": size, "oid": "a" * 40} for n, size in sizes.items()])
        elif path.startswith(f"/api/models/{ID}"):
            self.answer({"id": ID, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
        elif path.startswith(f"/{ID}/resolve/"):
            name = path.removeprefix(f"/{ID}/resolve/").partition("/")[2]
            if self.command == "GET":
                self.fetched.append(name)
            self.answer((self.folder / name).read_bytes())
        else:
            self.answer({"error": "Repository not found"}, 404)

    def answer(self, content, status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{abs(hash(self.path.split("?")[0])):040x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(folder):
    handler = type("Served", (Hub,), {"folder": folder, "fetched": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(home, endpoint, *sources, **environment):
    """The hash, or what is told, of each, one after the other."""
    names = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", ASK, *sources]
    settings = names | {"OMP_NUM_THREADS": "1"} | environment
    run = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=True)
    return run.stdout.splitlines()


@pytest.mark.slow
def test_it_is_fetched_once_and_later_needs_no_net(folder, hub, tmp_path):
    digest = model(folder).hash
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    first, second, other = ask(tmp_path, endpoint, ID, ID, "somebody/else")
    assert first == second == digest
    # Each once, and nothing that is not wanted.
    assert sorted(hub.RequestHandlerClass.fetched) == [
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert (
        "source: is no folder here, nor whole in the hub's cache, nor to be fetched (RepositoryNotFoundError" in other
    )
    again, told = ask(tmp_path, NOWHERE, ID, f"{ID}@v2", HF_HUB_OFFLINE="1")
    assert again == digest
    assert told.startswith("source: is no folder here, nor whole in the hub's cache, nor to be fetched (")
    # A download that was broken off is gone on with.
    (weights,) = (tmp_path / "hub").glob("*/snapshots/*/unet/*.safetensors")
    weights.resolve().unlink()
    weights.unlink()
    hub.RequestHandlerClass.fetched.clear()
    (mended,) = ask(tmp_path, endpoint, ID)
    assert mended == digest
    assert hub.RequestHandlerClass.fetched == ["unet/diffusion_pytorch_model.safetensors"]


def test_without_a_net_it_says_what_to_fetch_and_where_to(tmp_path):
    (told,) = ask(tmp_path, NOWHERE, f"{ID}@v2")
    command = f"`hf download {ID} --revision v2 --local-dir tiny-ddpm`"
    assert told.startswith("source: is no folder here, nor whole in the hub's cache, nor to be fetched (")
    assert (
        f"given '{ID}'; allowed: {command} where there is a net, and that folder, brought here, as the source" in told
    )
    assert told.endswith("model_index.json, *config.json, *diffusion_pytorch_model*.safetensors")


FILES = [
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin", "text_encoder_2/config.json",
    "text_encoder_2/model-00001-of-00002.safetensors", "text_encoder_2/model.safetensors.index.json",
    "tokenizer/merges.txt", "tokenizer/vocab.json", "tokenizer_2/spiece.model", "safety_checker/model.safetensors",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
    "README.md", "code.py",
]  # fmt: skip
TEXTS = FILES[2:4] + FILES[6:12]


@pytest.mark.parametrize("texts", [False, True])
def test_text_encoders_are_fetched_for_prompts_alone(monkeypatch, tmp_path, texts):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(source, **options):
        asked.append(options)
        if options.get("local_files_only"):
            raise OSError("not in the cache")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert folder_module.locate(ID, "v2", texts=texts) == tmp_path
    patterns = {key: asked[-1][key] for key in ("allow_patterns", "ignore_patterns")}
    fetched = set(hub.utils.filter_repo_objects(FILES, **patterns))
    assert fetched == {*FILES[:2], *FILES[13:15], *(TEXTS if texts else [])}
