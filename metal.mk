# ---- metal: Cupel on the bare machine. Included by the Makefile ----
# TCG_SRC, DEV_SRC and BASE_SRC are built once more here, with the kernel's flags.
NEWLIB := $(B)/newlib/x86_64-elf
CUPEL_VERSION ?= 0.1
CUPEL_BUILD := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
IDENT := -DCUPEL_VERSION='"$(CUPEL_VERSION)"' -DCUPEL_BUILD='"$(CUPEL_BUILD)"'

METAL_SRC := $(wildcard kernel/*.c kernel/*.S) boot/config.c $(ASSAY_SRC) $(TCG_SRC) $(DEV_SRC) $(filter kernel/base/%,$(BASE_SRC))
METAL_OBJ := $(patsubst %,$(B)/metal/%.o,$(METAL_SRC))
METALFLAGS := $(BASEFLAGS) $(REGSONLY) -mno-red-zone -mcmodel=kernel -fno-pic -fno-pie -ffreestanding -fno-stack-protector -fcf-protection=none \
    -isystem $(NEWLIB)/include $(IDENT)

# The C library, once. Nothing is compiled before its headers are there.
$(NEWLIB)/lib/libc.a: tools/newlib.sh
	tools/newlib.sh $(B)/newlib
	@touch $@
$(METAL_OBJ): | $(NEWLIB)/lib/libc.a

# The build id is compiled into three files; they are made anew when it changes.
$(B)/metal/ident: FORCE
	@mkdir -p $(@D); echo '$(CUPEL_VERSION) $(CUPEL_BUILD)' | cmp -s - $@ || echo '$(CUPEL_VERSION) $(CUPEL_BUILD)' >$@
$(B)/metal/kernel/main.c.o $(B)/metal/kernel/assay.c.o $(B)/boot/boot/main.c.o: $(B)/metal/ident

$(B)/metal/font.psf:
	@mkdir -p $(@D)
	gzip -dc /usr/share/consolefonts/Uni2-VGA16.psf.gz >$@
$(B)/metal/kernel/font.S.o: $(B)/metal/font.psf

$(B)/metal/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(METALFLAGS) -c -o $@ $<
$(B)/metal/%.S.o: %.S
	@mkdir -p $(@D)
	$(CC) $(METALFLAGS) -DFONT_PSF='"$(B)/metal/font.psf"' -c -o $@ $<

# Two links: the first gives the symbols' addresses, the second embeds the table of them, in a section behind everything else.
METAL_LD = $(CC) -nostdlib -static -no-pie -Wl,-T,linker.ld -Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments
METAL_LIBS = -L$(NEWLIB)/lib -Wl,--start-group -lc -lgcc -Wl,--end-group
$(B)/metal/pass1.elf: $(METAL_OBJ) linker.ld
	$(METAL_LD) -o $@ $(METAL_OBJ) $(METAL_LIBS)
$(B)/metal/ksymbols.o: $(B)/metal/pass1.elf tools/symbols.awk
	nm -n $< | awk -f tools/symbols.awk >$(@:.o=.S)
	$(CC) -c -o $@ $(@:.o=.S)
$(B)/cupel-kernel.elf: $(B)/metal/ksymbols.o
	$(METAL_LD) -o $@ $(METAL_OBJ) $< $(METAL_LIBS)

# ---- the UEFI application, with the stripped kernel inside ----
BOOT_OBJ := $(patsubst %,$(B)/boot/%.o,$(wildcard boot/*.c) kernel/base/fmt.c kernel/base/string.c boot/kernel.S)
BOOTFLAGS := $(BASEFLAGS) $(REGSONLY) -fpic -fshort-wchar -mno-red-zone -ffreestanding -fno-stack-protector -fcf-protection=none \
    -maccumulate-outgoing-args -DGNU_EFI_USE_MS_ABI -isystem /usr/include/efi -isystem /usr/include/efi/x86_64 $(IDENT)
$(B)/boot/kernel.elf: $(B)/cupel-kernel.elf
	@mkdir -p $(@D)
	strip -o $@ $<
$(B)/boot/boot/kernel.S.o: $(B)/boot/kernel.elf
$(B)/boot/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(BOOTFLAGS) -c -o $@ $<
$(B)/boot/%.S.o: %.S
	@mkdir -p $(@D)
	$(CC) -DKERNEL_ELF='"$(B)/boot/kernel.elf"' -c -o $@ $<
$(B)/boot/cupel.so: $(BOOT_OBJ)
	ld -nostdlib -znocombreloc -znoexecstack -shared -Bsymbolic -T /usr/lib/elf_x86_64_efi.lds --no-warn-rwx-segments /usr/lib/crt0-efi-x86_64.o \
	    $(BOOT_OBJ) -L/usr/lib -lgnuefi -o $@
	@! nm -u $@ | grep . || { echo "undefined symbols in cupel.efi" >&2; exit 1; }
$(B)/cupel.efi: $(B)/boot/cupel.so
	objcopy -j .text -j .sdata -j .data -j .rodata -j .dynamic -j .dynsym -j .rel -j .rela -j '.rel.*' -j '.rela.*' -j .reloc \
	    --output-target=efi-app-x86_64 --subsystem=10 $< $@

# The guest's files are made by the Makefile's own rule, perhaps in this very run: name them, do not look whether they are there.
GUEST_FILES := $(B)/guest/vmlinuz $(B)/guest/initrd $(B)/guest/assay.img
$(B)/cupel.img: $(B)/cupel.efi boot/cupel.conf tools/mkimg.sh $(GUEST_FILES)
	tools/mkimg.sh $@ $(B)/cupel.efi boot/cupel.conf $(B)/guest

# ---- the same for PCs with a legacy BIOS: GRUB loads the kernel's ELF by its Multiboot2 header ----
$(B)/cupel.iso: $(B)/boot/kernel.elf boot/cupel.conf tools/mkiso.sh $(GUEST_FILES)
	tools/mkiso.sh $@ $(B)/boot/kernel.elf boot/cupel.conf $(B)/guest
iso: $(B)/cupel.iso ## build/cupel.iso, which boots PCs with a legacy BIOS by GRUB
.PHONY: iso

.PHONY: metal FORCE
metal: $(B)/cupel.img ## build/cupel.efi and build/cupel.img, which boots by UEFI
FORCE:
-include $(METAL_OBJ:.o=.d) $(BOOT_OBJ:.o=.d)
