"""What every engine has to show with the default guest in its shell: the same list hosted and on metal."""
import hashlib
import re

from machine import check

BAD = re.compile(r"unstable|WARNING|BUG:|Call Trace|soft lockup|rcu.*stall|Oops|spurious.*interrupt|nobody cared|lost.*interrupt", re.I)


def shell_checks(m):
    out, code = m.shell("uname -a")
    check("uname", code == 0 and re.search(r"^Linux cupel .*x86_64", out), out)
    out, code = m.shell("echo $((6 * 7)) $$ >/dev/null; false")
    check("exit status", code == 1, f"{code} {out}")

    # A file made of known bytes, summed there and here: loads, stores and integer arithmetic over some 10^7 instructions.
    line = b"0123456789abcdef" * 4 + b"\n"
    out, _ = m.shell("yes %s | head -n 5000 >/tmp/f; sha256sum /tmp/f; md5sum </tmp/f; wc -c </tmp/f"
                     % line.decode().strip(), 180)
    data = line * 5000
    check("sha256sum", hashlib.sha256(data).hexdigest() in out, out)
    check("md5sum", hashlib.md5(data).hexdigest() in out, out)
    check("size", re.search(rf"^{len(data)}$", out, re.M), out)

    out, _ = m.shell("gzip -c /tmp/f | gunzip | cmp - /tmp/f && seq 1 20000 | sort -rn | awk '{ s += $1 } END { print s }'", 180)
    check("pipes", "200010000" in out, out)
    out, _ = m.shell("i=0; while [ $i -lt 60 ]; do /bin/true || echo bad; i=$((i + 1)); done; echo done $i", 180)
    check("sixty processes", "done 60" in out and "bad" not in out, out)
    out, _ = m.shell("sleep 100 & sleep 1; kill %1; wait; jobs; echo ok", 60)
    check("job control", out.rstrip().endswith("ok"), out)
    out, _ = m.shell("awk 'BEGIN { x = 1; for (i = 0; i < 20; i++) x = (x + 2 / x) / 2; printf \"%.12f %.3e\\n\", x, 1 / 3e10 }'")
    check("floating point", "1.414213562373 3.333e-11" in out, out)
    out, _ = m.shell("ls -d /proc /sys /dev/null; cat /proc/interrupts | grep -c :")
    check("file systems", "/dev/null" in out, out)
    check_dmesg(m)


def check_remap(m):
    """Wants initrd-tests: code that changes by page tables and by writing."""
    out, code = m.shell("remap", 120)
    check("remap", code == 0 and "remap: ok" in out, f"{code} {out}")


def check_dmesg(m):
    out, _ = m.shell("dmesg", 120)
    bad = [x for x in out.splitlines() if BAD.search(x)]
    check("dmesg", len(out) > 1000 and not bad, "\n".join(bad[:8]) or out[:200])


def check_clock(m, wall, seconds=3):
    """The guest's second is our second. `wall` is time.monotonic."""
    t = wall()
    out, _ = m.shell(f"a=$(cut -d ' ' -f 1 /proc/uptime); sleep {seconds}; b=$(cut -d ' ' -f 1 /proc/uptime); echo $a $b", 60)
    took = wall() - t
    m2 = re.search(r"([\d.]+) ([\d.]+)", out)
    guest = float(m2.group(2)) - float(m2.group(1)) if m2 else 0
    check("clock", m2 and abs(guest - seconds) < 1 and abs(took - guest) < 2, f"guest {guest:.2f} s, here {took:.2f} s: {out}")
