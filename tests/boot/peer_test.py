#!/usr/bin/env python3
"""The default guest itself, in QEMU's TCG: when this fails, the guest or the tests are wrong, not Cupel."""
from linux import shell_checks
from machine import case, check, finish, guest_args, peer


def test_guest():
    m = peer(*guest_args(), "-append", "console=ttyS0 panic=-1", "-m", "512", "-no-reboot")
    m.login()
    shell_checks(m)
    m.send("poweroff\n")
    check("poweroff", m.wait(60) == 0, m.proc.returncode)


case(test_guest)
finish()
