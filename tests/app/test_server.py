"""The server: which requests it answers, and what it never does."""

import hashlib
import re
import signal
import subprocess
import sys
import urllib.request
from functools import partial

import pytest

from interp.app import server
from interp.app.server import PortError, build, serve
from interp.cli import main

HERE = {"Host": "127.0.0.1:8050"}


@pytest.fixture
def client(library):
    return build(library, "runs").server.test_client()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8050", "localhost:1234", "localhost"])
def test_this_machine_is_answered(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8050", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.7:8050", ""]
)
@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/_dash-dependencies", "/assets/style.css"])
def test_a_foreign_name_of_this_machine_is_refused(client, host, path):
    assert client.get(path, headers={"Host": host}).status_code == 403


def test_another_sites_page_is_refused(client):
    asked = {"output": "page.children", "inputs": [], "changedPropIds": []}
    for origin in ("http://evil.example", "null", "https://127.0.0.1:8050", "http://127.0.0.1:9999"):
        assert client.post("/_dash-update-component", json=asked, headers={**HERE, "Origin": origin}).status_code == 403


def test_pages_of_runs_are_answered(client, ids):
    for path in ("/", f"/run/{ids['stream']}", f"/compare/{ids['stream']}/{ids['half']}", "/assets/style.css"):
        assert client.get(path, headers=HERE, buffered=True).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/run/000000000000",
        "/run/stream",
        "/run/",
        "/run/../../etc/passwd",
        "/run/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/compare/{stream}",
        "/compare/{stream}/000000000000",
        "/run/{stream}/run.json",
        "/{stream}/run.json",
        "/assets/../server.py",
        "/assets/%2e%2e/server.py",
        "/assets//etc/passwd",
        "/_dash-component-suites/interp/app/server.py",
        "/_dash-component-suites/dash/../../../../etc/passwd",
        "/etc/passwd",
        "/_mcp",
        "/_reload-hash/../run",
    ],
)
def test_all_else_is_not_found(client, ids, path):
    answer = client.get(path.format(**ids), base_url="http://127.0.0.1:8050", follow_redirects=True)
    assert answer.status_code == 404
    assert b"import" not in answer.data
    assert b"root:" not in answer.data


def test_nothing_may_be_loaded_from_elsewhere_and_no_inline_script_but_its_own_runs(client):
    answer = client.get("/", headers=HERE)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe" not in scripts
    assert "http" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", answer.text)


def test_a_port_that_is_taken_is_said(saved, capsys):
    with serve(saved[0], port=0) as running:
        port = int(running.url.rsplit(":", 1)[1].strip("/"))
        why = rf"port {port} of 127.0.0.1 cannot be listened on .*; choose another one, or 0"
        with pytest.raises(PortError, match=why), serve(saved[0], port=port):
            pass
        assert main(["view", str(saved[0].files.root), "--port", str(port), "--no-browser"]) == 2
        assert "choose another one" in capsys.readouterr().err


def test_only_this_machine_is_listened_on(saved):
    with serve(saved[0], port=0) as running:
        assert running.wsgi.server_address[0] == "127.0.0.1" == server.HOST


def test_looking_changes_nothing_in_the_store(saved, client, ids):
    root = saved[0].files.root

    def contents():
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".index"]
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = contents()
    for path in ("/", f"/run/{ids['stream']}", f"/compare/{ids['stream']}/{ids['heads']}", "/_dash-layout"):
        client.get(path, headers=HERE)
    assert contents() == before


def test_view_serves_until_it_is_interrupted(saved):
    command = [sys.executable, "-m", "interp.cli", "view", str(saved[0].files.root), "--port", "0", "--no-browser"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # who runs the tests in the background may not hear it
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        said = process.stdout.readline()
        url = re.search(r"is shown at (http://127\.0\.0\.1:\d+/) \(Ctrl\+C ends it\)", said).group(1)
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
            assert b"<title>interp</title>" in answer.read()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_view_says_what_is_missing(monkeypatch, capsys, tmp_path):
    assert main(["view", str(tmp_path / "nowhere")]) == 2
    assert "there is no store at" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["view", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error == "interp: interp view needs dash, which is not installed: pip install 'interp-workbench[app]'\n"
