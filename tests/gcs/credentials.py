"""Creates what a client needs: a certificate that it trusts, and an account."""

import json
import pathlib
import subprocess

from tests.gcs.front import ACCOUNT, HOSTS


def write_credentials(folder: pathlib.Path) -> str:
    """Write a certificate for Google's hosts and the key file of a service account.

    Returns:
      The path of the key file.
    """
    certificate, tls = folder / "certificate.pem", folder / "tls.pem"
    key, account = folder / "key.pem", folder / "account.json"
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    options = ["-subj", "/CN=harness", "-keyout", tls, "-out", certificate]
    options += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    options += ["-addext", f"subjectAltName={names}"]
    _run_openssl(*request.split(), *options)
    tls.write_bytes(tls.read_bytes() + certificate.read_bytes())
    _run_openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
    fields = {
        "type": "service_account",
        "project_id": "harness",
        "private_key_id": "1",
        "private_key": key.read_text(),
        "client_email": ACCOUNT,
        "client_id": "1",
        "token_uri": f"https://{HOSTS[2]}/token",
    }
    account.write_text(json.dumps(fields))
    return str(account)


def _run_openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
