"""Files are data, names are text, passwords stay where they were given, and the audit says what it has seen."""

import ast
import html.parser
import shlex
import socket
from pathlib import Path

import pytest

from pipeline import run_study, store, yaml_file
from pipeline.publisher import first_line
from pipeline.ray_pool import check_address
from pipeline.registry import SpecError
from reports import figures, page, tables
from reports.artifacts import NoArtifacts
from reports.record import frame_of
from tests import audit
from tests.cli.console import command
from tests.report_rows import row

ROOT = Path(__file__).parent.parent
SOURCES = [
    path for name in ("pipeline", "reports", "baselines", "search_spaces") for path in (ROOT / name).rglob("*.py")
]
# Each runs what it reads, or may.
RUNS_DATA = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.hub.load"}
RUNS_DATA |= {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "pandas.read_pickle", "pd.read_pickle"}
FETCHES = {"urllib.request", "requests", "httpx", "http.client", "torch.hub", "huggingface_hub", "ftplib"}
PASSWORD = "hunter2"


def trees():
    assert len(SOURCES) > 60
    return [(path, ast.parse(path.read_text())) for path in SOURCES]


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "", *(f"{node.module}.{name.name}" for name in node.names))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            named = node.args[0]  # by name, which hides it from the two above
            if isinstance(named, ast.Constant):
                yield str(named.value)


def test_nothing_that_is_read_is_run():
    found = []
    for path, tree in trees():
        found += [f"{path.name}: {name}" for name in imported(tree) if name in RUNS_DATA]
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name, options = ast.unparse(call.func), {each.arg: ast.unparse(each.value) for each in call.keywords}
            harmless = name == "yaml.load" and options.get("Loader") == "_Loader"  # a SafeLoader: the next test
            harmless |= (
                name == "torch.load" and options.get("weights_only") == "True"
            )  # tensors, and what a test allows
            if (name in RUNS_DATA or (name.startswith("yaml.") and "load" in name)) and not harmless:
                found.append(f"{path.name}:{call.lineno}: {name}")
            if options.get("allow_pickle") == "True" or options.get("shell") == "True":
                found.append(f"{path.name}:{call.lineno}: {options}")
    # `Plan.compile` and the like would be methods of ours; the builtins are not.
    assert found == []


def test_what_opens_an_address_is_named_here():
    """The check whether a server answers, and the hub's files of a card that names a pipeline by its id."""
    found = {f"{path.parent.name}/{path.name}" for path, tree in trees() if FETCHES & set(imported(tree))}
    assert found == {"pipeline/store.py", "diffusers/folder.py"}


@pytest.mark.parametrize(
    "line",
    [
        "study: !!python/object/apply:os.mkdir [{mark}]",
        "study: !!python/object/new:os.mkdir [{mark}]",
        "study: !!python/name:os.system",
        "? !!python/object/apply:os.mkdir [{mark}]\n: 1",
    ],
)
def test_a_study_file_runs_no_code(tmp_path, line):
    file, mark = tmp_path / "mine.yaml", tmp_path / "mark"
    file.write_text(line.format(mark=mark))
    with pytest.raises(SpecError, match=r"is not YAML|cannot be read") as caught:
        yaml_file.read(file)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


HOSTILE = "\"><script>alert(1)</script>'|`*_&%$#{}~^\\input{/etc/passwd}\n\\end{table}"
COLUMNS = ("method", "name", "benchmark", "reference", "revision", "reason", "terminal")


class Tags(html.parser.HTMLParser):
    """What a browser would take for tags."""

    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_hostile_text_in_any_column_is_text_in_every_report(column, tmp_path):
    def frame(text):
        rows = [row("floor", 40, 0.1), row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.3)]
        rows += [row("searched/2", 5, 0.35, state="failed"), row("confirmed/searched/1", 5, 0.3)]
        return frame_of([{**each, column: text} for each in rows])

    tame, wild = frame("harmless"), frame(HOSTILE)
    assert "<script" not in tables.markdown(wild)
    assert "<script" not in tables.leaderboard(wild)
    pages = [page.write(each, tmp_path / "report.html", NoArtifacts()).read_text() for each in (tame, wild)]
    assert Tags(pages[1]).seen == Tags(pages[0]).seen
    assert "<script>alert" not in pages[1]
    tex = tables.latex(wild)
    assert "\\input" not in tex
    assert tex.count(r"\end{table}") == tables.latex(tame).count(r"\end{table}")
    assert "<script" not in figures.front_svg(wild, tmp_path / "front.svg").read_text()


ADDRESSES = [
    f"postgresql://ana:{PASSWORD}@{{}}/runs",
    f"postgresql://ana:p@{PASSWORD}@{{}}/runs",
    f"postgresql://{{}}/runs?user=ana&password={PASSWORD}",
    f"http://ana:{PASSWORD}@{{}}",
    f"http://{PASSWORD}@{{}}",
]


@pytest.fixture
def nobody():
    """An address on loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_is_masked_wherever_it_stands(address):
    given = address.format("db.example:5432")
    masked = store.masked(f"could not open {given} (timeout)")
    assert PASSWORD not in masked
    assert "db.example:5432" in masked
    assert masked.endswith(" (timeout)")


@pytest.mark.parametrize("address", ["sqlite:////home/ana/runs/mlflow.db", "http://127.0.0.1:5000", "cannot open it"])
def test_what_holds_no_password_is_left_as_it_is(address):
    assert store.masked(address) == address


@pytest.mark.parametrize("address", [each for each in ADDRESSES if each.startswith("postgresql")])
def test_the_storage_of_a_study_is_told_without_its_password(address, nobody, tmp_path, monkeypatch):
    """Where it is refused, and in the command that a stopped search names to go on."""
    monkeypatch.chdir(tmp_path)
    given = address.format(nobody)
    ran = command("search", "gmm", "--workers", "0", "--storage", given)
    assert ran.status != 0
    assert nobody.partition(":")[0] in ran.err
    assert PASSWORD not in ran.out + ran.err
    again = run_study.masked(shlex.join(["sigmasearch", "search", "gmm", "--storage", given]))
    assert PASSWORD not in again
    assert nobody in again


def test_an_error_of_mlflow_is_told_without_its_password():
    error = OSError(f"API request to http://ana:{PASSWORD}@127.0.0.1:5000/api failed\nand more")
    assert first_line(error).startswith("API request to http://ana:***@127.0.0.1:5000/api")


def stop(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("argv", [("search", "gmm", "--workers", "0"), ("report", "digits"), ("ui",)])
def test_no_command_prints_the_password_of_a_store_that_does_not_answer(argv, address, nobody, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(nobody))
    monkeypatch.setattr("pipeline.run_study.open_pool", stop)  # the search itself is not the point
    ran = command(*argv)
    assert "does not answer" in ran.out or "cannot be opened" in ran.err
    assert PASSWORD not in ran.out + ran.err
    left = [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert left == []


def test_the_page_of_a_store_hides_its_password_from_other_users_of_the_machine():
    """Arguments of a process are everybody's to read."""
    argv, environment = store.server_command(f"postgresql://ana:{PASSWORD}@127.0.0.1/runs", 5000)
    assert PASSWORD not in " ".join(argv)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"postgresql://ana:{PASSWORD}@127.0.0.1/runs"


@pytest.mark.parametrize("address", [f"http://ana:{PASSWORD}@127.0.0.1:1", f"ray://ana:{PASSWORD}@127.0.0.1:1"])
def test_a_wrong_address_of_a_cluster_is_told_without_its_password(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SpecError, match="RAY_ADDRESS") as caught:
        check_address()
    assert PASSWORD not in str(caught.value)


FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}


def package(name, **more):
    return {"name": name, "version": "1.0", "vulns": [], **more}


@pytest.mark.parametrize("answer", [None, [], [package("a", skip_reason="not found")]])
def test_an_audit_that_nobody_answers_is_not_called_clean(answer):
    """The last is pip-audit's "no known vulnerabilities found", status 0, on an index without advisories."""
    ((line,), status) = audit.verdict(lambda service: answer, required=False)
    assert (line.split(",")[0], status) == ("pip-audit: NOT CHECKED", 0)
    assert audit.verdict(lambda service: answer, required=True)[1] == 2


def test_an_audit_asks_the_next_service_and_names_what_it_could_not_see():
    answers = {"pypi": None, "osv": [package("a"), package("b"), package("c", skip_reason="not found")]}
    lines, status = audit.verdict(answers.get, required=True)
    assert lines[0] == "pip-audit: 2 of 3 packages audited (osv), 0 vulnerabilities"
    assert lines[1:] == ["  not on the index, so not audited: c"]
    assert status == 0


@pytest.mark.parametrize("explained", ["PYSEC-1", "CVE-1"])
def test_a_vulnerability_fails_the_audit_until_it_is_explained(explained, monkeypatch):
    asked = {"pypi": [package("a", vulns=[FLAW]), package("b")]}.get
    lines, status = audit.verdict(asked, required=False)
    assert status == 1
    assert "  a 1.0: PYSEC-1, fixed in 2.0" in lines
    monkeypatch.setitem(audit.EXPLAINED, explained, "we never call it")
    lines, status = audit.verdict(asked, required=False)
    assert status == 0
    assert f"  {explained}: explained: we never call it" in lines
