"""What the tables of bad input are run with: material to spoil, and the check of what is said."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.bundles.bundle import BundleManifest, Source, TensorSpec, write_bundle
from asrcompress.features import FeatureSpec
from asrcompress.tokens import Vocabulary

SYMBOLS = ("<blank>", "<unk>", "开", "关", "灯", "<eos>")
N_MELS = 80
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_BOX = re.compile(r"[│╭╮╰╯─\s]+")


class Place:
    """A folder with one valid thing of each kind, made when it is first asked for.

    Attributes:
        path: the folder; the working directory while a case runs.
    """

    def __init__(self, path: Path, templates: Templates) -> None:
        self.path = path
        self._templates = templates

    @property
    def experiment(self) -> Path:
        """A checkpoint that can be read; its tensors fit no network."""
        return self._copy("asr", self._templates.experiment)

    @property
    def trained(self) -> Path:
        """A checkpoint that Paddle can build (slow the first time)."""
        return self._copy("trained", self._templates.trained)

    @property
    def bundle(self) -> Path:
        """A bundle that runs."""
        return self._copy("bundle", self._templates.bundle)

    @property
    def run(self) -> Path:
        """A run that passed, of `experiment`; its gate reports are not real."""
        folder = self.path / "run"
        if folder.exists():
            return folder
        folder.mkdir()
        model = self.bundle / "model.onnx"
        shutil.copyfile(model, folder / "model.int8.onnx")
        weights = self.experiment / "checkpoints/best.pdparams"
        self.write_json(
            folder / "run.json",
            {
                "schema_version": 1,
                "status": "passed",
                "finished": 1.0,
                "recipe": {
                    "checkpoint": {"path": str(self.experiment)},
                    "data": {"gate": "gate.jsonl"},
                },
                "checkpoint": {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()},
                "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
                "subsampling": 4,
                "max_frames": 500,
            },
        )
        self.write_json(folder / "integer_share.json", {"share": 1.0})
        self._write_reports(folder)
        return folder

    def _write_reports(self, folder: Path) -> None:
        from asrcompress.accuracy.cer import score_all
        from asrcompress.accuracy.gate import judge
        from asrcompress.manifests.manifest import load_manifest

        report = score_all(load_manifest(self.manifest), ["开"], [1.0])
        for name in ("before.json", "after.json"):
            self.write_json(folder / name, {"cer": report.to_json()})
        verdict = judge(report, report, max_increase=0.5, draws=100)
        self.write_json(folder / "verdict.json", verdict.to_json())

    @property
    def wav(self) -> Path:
        """A second of noise, 16 kHz mono."""
        path = self.path / "good.wav"
        if not path.exists():
            self.audio("good.wav", np.random.default_rng(0).normal(0, 0.1, 16000))
        return path

    @property
    def manifest(self) -> Path:
        """A manifest of one utterance."""
        path = self.path / "good.jsonl"
        if not path.exists():
            self.lines("good.jsonl", {"utt": "a", "audio": str(self.wav), "text": "开"})
        return path

    def write(self, name: str | Path, content: str | bytes) -> Path:
        """Write a file; its folders are made."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    def write_json(self, name: str | Path, data: object) -> Path:
        """Write a JSON file."""
        return self.write(name, json.dumps(data))

    def lines(self, name: str, *records: object) -> Path:
        """Write a manifest of JSON lines; a str is written as it is."""
        text = [one if isinstance(one, str) else json.dumps(one) for one in records]
        return self.write(name, "".join(f"{line}\n" for line in text))

    def audio(self, name: str, samples: np.ndarray, rate: int = 16000, **options: Any) -> Path:
        """Write audio with soundfile."""
        import soundfile

        soundfile.write(self.path / name, samples, rate, **options)
        return self.path / name

    def edit_json(self, path: Path, **changes: Any) -> None:
        """Change keys of a JSON file; None removes one."""
        tree = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        kept = {key: value for key, value in tree.items() if value is not None}
        path.write_text(json.dumps(kept), encoding="utf-8")

    def edit_yaml(self, path: Path, **changes: Any) -> None:
        """Change keys of a YAML file; None removes one."""
        import yaml

        tree = {**yaml.safe_load(path.read_text(encoding="utf-8")), **changes}
        kept = {key: value for key, value in tree.items() if value is not None}
        path.write_text(yaml.safe_dump(kept), encoding="utf-8")

    def reseal(self, **changes: Any) -> None:
        """Change keys of the bundle's bundle.json and make all its digests right again."""
        path = self.bundle / "bundle.json"
        tree = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        if "files" not in changes:
            for name, record in tree["files"].items():
                content = (self.bundle / name).read_bytes()
                record["sha256"] = hashlib.sha256(content).hexdigest()
                record["size_bytes"] = len(content)
        tree["bundle_sha256"] = "0" * 64
        text = json.dumps(tree)
        path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest()))

    def flip(self, path: Path, position: int = -1) -> None:
        """Change one bit of a file."""
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    def _copy(self, name: str, template: Callable[[], Path]) -> Path:
        path = self.path / name
        if not path.exists():
            shutil.copytree(template(), path)
        return path


@dataclasses.dataclass(frozen=True)
class Templates:
    """Where the things that a `Place` copies come from."""

    experiment: Callable[[], Path]
    trained: Callable[[], Path]
    bundle: Callable[[], Path]


@pytest.fixture(scope="session")
def templates(
    make_experiment: Callable[..., Path],
    make_plain_experiment: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Templates:
    folder = tmp_path_factory.mktemp("templates")

    def once(name: str, make: Callable[[Path], object]) -> Callable[[], Path]:
        def get() -> Path:
            if not (folder / name).exists():
                make(folder / name)
            return folder / name

        return get

    return Templates(
        experiment=once("asr", make_plain_experiment),
        trained=once("trained", make_experiment),
        bundle=once("bundle", _write_bundle),
    )


def _write_bundle(folder: Path) -> None:
    """A bundle of one matrix product."""
    onnx = pytest.importorskip("onnx", reason="makes the graph")
    helper, kinds = onnx.helper, onnx.TensorProto
    size = len(SYMBOLS)
    weight = np.random.default_rng(0).normal(0, 0.1, (N_MELS, size)).astype(np.float32)
    shapes = {"x": ["N", "T", N_MELS], "log_probs": ["N", "T", size]}
    lengths = [helper.make_tensor_value_info(n, kinds.INT64, ["N"]) for n in ("x_lens", "n_out")]
    tensors = {n: helper.make_tensor_value_info(n, kinds.FLOAT, d) for n, d in shapes.items()}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("LogSoftmax", ["y"], ["log_probs"], axis=2),
            helper.make_node("Identity", ["x_lens"], ["n_out"]),
        ],
        "tiny",
        [tensors["x"], lengths[0]],
        [tensors["log_probs"], lengths[1]],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = folder.with_name("tiny.onnx")
    onnx.save(model, str(path))
    specs = {
        name: TensorSpec(name=name, dtype=dtype, dims=dims)
        for name, dtype, dims in (
            ("x", "float32", ("N", "T", N_MELS)),
            ("x_lens", "int64", ("N",)),
            ("log_probs", "float32", ("N", "T", size)),
            ("n_out", "int64", ("N",)),
        )
    }
    manifest = BundleManifest(
        family="tiny",
        precision="fp32",
        model="model.onnx",
        inputs=(specs["x"], specs["x_lens"]),
        outputs=(specs["log_probs"], specs["n_out"]),
        features=FeatureSpec(),
        blank_id=0,
        vocab_size=size,
        subsampling_factor=1,
        min_frames=7,
        max_frames=500,
        opset=13,
        source=Source(checkpoint_name="tiny/best", checkpoint_sha256="ab" * 32),
        tools={},
    )
    write_bundle(folder, manifest, model=path, vocabulary=Vocabulary(symbols=SYMBOLS))


@pytest.fixture
def place(tmp_path: Path, templates: Templates, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, templates)


@pytest.fixture
def check(place: Place) -> Callable[..., None]:
    """Spoil the place, run the command, and compare all that it said and did.

    Arguments: make(place) -> words of the command line, message after ``error: `` with the place's
    folder written as TMP, exit code.
    """
    from typer.testing import CliRunner

    from asrcompress.cli.app import app

    def run(make: Callable[[Place], list[Any]], message: str, code: int = 3) -> None:
        words = [str(word) for word in make(place)]
        before = _snapshot(place.path)
        result = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"}).invoke(app, words)
        said = _DIGEST.sub("SHA256", result.stderr.replace(str(place.path), "TMP"))
        shown = f"{' '.join(words)}\n{said}\n{result.exception!r}"
        assert isinstance(result.exception, SystemExit), shown
        assert "Traceback" not in said, shown
        if code == 2:
            seen = _BOX.sub(" ", said).partition(" Error ")[2].strip()
        else:
            seen = said[said.index("error: ") + 7 :].partition("\nhint: ")[0].rstrip("\n")
        record(request_name(), seen)
        assert seen == message, shown
        assert result.exit_code == code, shown
        assert result.stdout == "", shown
        assert _snapshot(place.path) == before, "something was written or overwritten"

    return run


def record(name: str, seen: str) -> None:
    """Keep what was said, to look at all messages together: ASRCOMPRESS_MESSAGES=file."""
    if path := os.environ.get("ASRCOMPRESS_MESSAGES"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps([name, seen], ensure_ascii=False) + "\n")


def request_name() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "")


def _snapshot(folder: Path) -> dict[str, object]:
    """Every file below `folder`: what is in it, or where it points to."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            stat = path.stat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if stat.st_size < 1e7 else ""
            found[name] = (stat.st_size, stat.st_mtime_ns, digest)
        else:
            found[name] = None
    return found


@pytest.fixture(scope="session")
def tables() -> dict[str, list[Any]]:
    """CASES of every test module of this folder, by the module's name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[path.stem] = getattr(module, "CASES", [])
    return found
