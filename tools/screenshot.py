#!/usr/bin/env python3
"""The README's picture: boots build/cupel.img under QEMU + OVMF with a display nobody sees, types into the guest's shell over the serial
port, and saves the screen as PNG. Usage: tools/screenshot.py IMAGE OUT.png"""
import os
import socket
import struct
import sys
import tempfile
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "boot"))
import machine  # noqa: E402


def png_write(path, width, height, rgb):
    """Eight-bit RGB rows to PNG (ISO 15948): header, one zlib stream of rows with filter 0, end."""
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    rows = b"".join(b"\0" + rgb[y * width * 3:(y + 1) * width * 3] for y in range(height))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def ppm_read(path):
    with open(path, "rb") as f:
        data = f.read()
    fields, at = [], 0
    while len(fields) < 4:                      # P6, width, height, 255, then one blank and the pixels
        end = at
        while not data[end:end + 1].isspace():
            end += 1
        fields.append(data[at:end])
        at = end + 1
    return int(fields[1]), int(fields[2]), data[at:]


def main():
    image, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as tmp:
        mon, ppm = os.path.join(tmp, "mon"), os.path.join(tmp, "screen.ppm")
        m = machine.metal("-vga", "std", "-monitor", f"unix:{mon},server=on,wait=off", image=os.path.abspath(image), log="screenshot")
        m.expect(machine.PROMPT, 900)
        m.send("uname -a; free -m\n")
        m.expect(machine.PROMPT, 120)
        time.sleep(2)
        s = socket.socket(socket.AF_UNIX)
        s.connect(mon)
        s.sendall(f"screendump {ppm}\n".encode())
        for _ in range(50):
            time.sleep(0.2)
            if os.path.exists(ppm) and os.path.getsize(ppm) > 1000:
                break
        time.sleep(0.5)
        os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
        png_write(out, *ppm_read(ppm))
        m.kill()
    print(f"{out} written")


main()
