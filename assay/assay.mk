# The assay (assay/). Included by the Makefile.

# ---- the payload: assay/guest/, build/assay/payload.elf and payload.bin ----
# Compiled for itself, whatever the mode: fixed address, no vector registers in C except in fp_*.c, scalar stays scalar.
PAYLOAD_SRC := $(wildcard assay/guest/*.c assay/guest/*.S) kernel/base/string.c kernel/base/fmt.c
PAYLOAD_OBJ := $(patsubst %,$(B)/assay/%.o,$(PAYLOAD_SRC))
PAYLOADFLAGS := $(filter-out -fno-omit-frame-pointer,$(BASEFLAGS)) -mno-red-zone -fno-pic -fno-pie -ffreestanding -fno-stack-protector \
    -fcf-protection=none -fno-asynchronous-unwind-tables -fno-tree-vectorize -fno-tree-loop-distribute-patterns -ffp-contract=off
$(PAYLOAD_OBJ): | $(B)/deps.build
$(B)/assay/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(PAYLOADFLAGS) $(if $(filter fp_%,$(notdir $<)),,-mgeneral-regs-only) -c -o $@ $<
$(B)/assay/%.S.o: %.S
	@mkdir -p $(@D)
	$(CC) -I. -MMD -MP -g -c -o $@ $<
# With symbols, for a debugger; what is loaded is the same as a 32-bit ELF, for QEMU's loader of multiboot kernels takes no other.
$(B)/assay/payload64.elf: $(PAYLOAD_OBJ) assay/guest/payload.ld
	$(CC) -nostdlib -static -no-pie -Wl,-T,assay/guest/payload.ld -Wl,--build-id=none -Wl,-n -Wl,--no-warn-rwx-segments -o $@ $(PAYLOAD_OBJ)
$(B)/assay/payload.elf: $(B)/assay/payload64.elf
	objcopy -O elf32-i386 --strip-all $< $@
$(B)/assay/payload.bin: $(B)/assay/payload64.elf
	objcopy -O binary $< $@
# The ring-3 tests in a process of their own, for tests/boot/payload_test.py.
$(B)/tests/payload_native: $(B)/unit/tests/unit/payload_native.c.o
	@mkdir -p $(@D)
	$(CC) -o $@ $^ -lpthread
-include $(PAYLOAD_OBJ:.o=.d) $(B)/unit/tests/unit/payload_native.c.d
# ---- the payload's end ----
