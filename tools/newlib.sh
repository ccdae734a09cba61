#!/bin/sh
# Builds newlib, the kernel's libc, from Debian's newlib-source package into build/newlib (headers and libc.a, libm.a).
#
# x86_64-elf is configured as a bare target whose "cross" tools are the host's own gcc and binutils: the ELF ABI is the same, only
# the flags differ. -mcmodel=kernel and no PIC, because the kernel lives in the last 2 GiB; no red zone, because
# interrupts run on the current stack. The compiler is a small wrapper that first tries general registers only, and falls back for the
# files that really compute with floating point: malloc, qsort, strtoul and their like are then safe while guest vector state is live. The
# printf family is left alone: a variadic function without vector registers would compile, and lose its doubles.
set -e
out=${1:-build/newlib}
mkdir -p "$out"
out=$(cd "$out" && pwd)
tarball=$(ls /usr/src/newlib/newlib-*.tar.* 2>/dev/null | head -n 1)
[ -n "$tarball" ] || { echo "newlib.sh: no newlib source; install it: apt-get install newlib-source" >&2; exit 1; }

src=$out/src obj=$out/obj
rm -rf "$src" "$obj"
mkdir -p "$src" "$obj"
tar -xf "$tarball" -C "$src" --strip-components=1

flags="-O2 -g -mcmodel=kernel -mno-red-zone -fno-pic -fno-pie -ffreestanding -fno-stack-protector -fno-tree-vectorize"
flags="$flags -ffunction-sections -fno-omit-frame-pointer -fcf-protection=none -Wno-error -w"
cat >"$obj/cc" <<'END'
#!/bin/sh
case " $* " in *printf*) ;; *" -c "*) ${REAL_CC:-gcc} "$@" -mgeneral-regs-only 2>/dev/null && exit 0 ;; esac
exec ${REAL_CC:-gcc} "$@"
END
chmod +x "$obj/cc"
export REAL_CC="${CC:-gcc}"
cd "$obj"
AS_FOR_TARGET=as AR_FOR_TARGET=ar LD_FOR_TARGET=ld NM_FOR_TARGET=nm RANLIB_FOR_TARGET=ranlib \
CC_FOR_TARGET="$obj/cc" CFLAGS_FOR_TARGET="$flags" \
"$src/configure" --target=x86_64-elf --prefix="$out" --disable-multilib --disable-libgloss --disable-newlib-supplied-syscalls \
    --disable-nls --disable-shared --enable-newlib-io-long-long --disable-newlib-multithread --disable-newlib-fvwrite-in-streamio \
    --enable-newlib-reent-small --disable-newlib-wide-orient >configure.log 2>&1 || { tail -n 20 configure.log >&2; exit 1; }
make -j"$(nproc)" all-target-newlib >make.log 2>&1 || { tail -n 30 make.log >&2; exit 1; }
make install-target-newlib >install.log 2>&1 || { tail -n 30 install.log >&2; exit 1; }
rm -rf "$src" "$obj"
echo "newlib.sh: $out/x86_64-elf"
