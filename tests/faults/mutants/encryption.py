"""Planted bugs in TLS: who is believed, and what becomes of the certificate that is shown."""

from tests.faults.mutants.mutant import Mutant

_TLS = "libs/runtime/tls.py"
_TESTS = "tests/unit/runtime/test_tls.py"

ENCRYPTION = (
    Mutant(
        name="the name in a certificate is not compared",
        file=_TLS,
        old="            context = ssl.create_default_context(cafile=ca_file)\n",
        new="            context = ssl.create_default_context(cafile=ca_file)\n"
        "            context.check_hostname = False\n",
        rule="a certificate is for the name that is expected",
        tests="tests/unit/change_capture/test_span_tls.py",
        chosen="another_nodes_certificate",
    ),
    Mutant(
        name="the authority of a certificate is not compared",
        file=_TLS,
        old="            context = ssl.create_default_context(cafile=ca_file)\n",
        new="            context = ssl.create_default_context(cafile=ca_file)\n"
        "            context.check_hostname = False\n"
        "            context.verify_mode = ssl.CERT_NONE\n",
        rule="a certificate is of an authority that is trusted",
        tests="tests/unit/rest/test_tls.py",
        chosen="another_authority",
    ),
    Mutant(
        name="broken new files take the place of good ones",
        file=_TLS,
        old="            self._refused = found\n",
        new="            self._refused = found\n"
        "            self._value = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # type: ignore\n",
        rule="a broken new pair is refused, and the old one stays",
        tests=_TESTS,
        chosen="broken_pair",
    ),
    Mutant(
        name="new files are not looked at",
        file=_TLS,
        old="        if found == self._used:\n            return\n",
        new="        if found:\n            return\n",
        rule="a new certificate needs no restart",
        tests=_TESTS,
        chosen="needs_no_restart",
    ),
    Mutant(
        name="a running server shows its first certificate for ever",
        file=_TLS,
        old="            handshake.context = self.current()\n",
        new="            handshake.context = current\n",
        rule="a new certificate needs no restart",
        tests="tests/unit/rest/test_tls.py",
        chosen="without_a_restart",
    ),
    Mutant(
        name="a service speaks plainly to everybody",
        file="libs/runtime/groups.py",
        old="        if self.tls_certificate_file is None and host and not "
        "self.may_speak_plainly(host):\n",
        new="        if self.tls_certificate_file is None and not host:\n",
        rule="beyond loopback there is TLS, or a word that there need not be",
        tests="tests/unit/rest/test_tls.py",
        chosen="beyond_loopback",
    ),
)
