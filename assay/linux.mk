# ---- the assay's stock Linux guest: its program, and the RAM disk that is nothing else. Included by the Makefile ----
# No C library and no debug information: firmware reads the RAM disk from a stick, and fork and exec are measured with it.
LINUX_OPS_SRC := $(wildcard assay/linux/*.c assay/linux/*.S) kernel/base/fmt.c kernel/base/string.c
LINUX_OPS_OBJ := $(patsubst %,$(B)/assay/ops/%.o,$(LINUX_OPS_SRC))
OPSFLAGS := $(filter-out -g,$(BASEFLAGS)) -mgeneral-regs-only -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none \
    -fno-asynchronous-unwind-tables
$(LINUX_OPS_OBJ): | $(B)/deps.build
$(B)/assay/ops/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(OPSFLAGS) -c -o $@ $<
$(B)/assay/ops/%.S.o: %.S
	@mkdir -p $(@D)
	$(CC) -c -o $@ $<
# The same file is the native comparison: build/assay/linux-ops --here.
$(B)/assay/linux-ops: $(LINUX_OPS_OBJ)
	$(CC) -static -nostdlib -no-pie -s -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,noseparate-code,-z,max-page-size=4096 -o $@ $^ -lgcc
# Uncompressed, as it is a few pages. The same bytes from the same program, whenever and by whomever it is packed.
$(B)/assay/linux-initrd: $(B)/assay/linux-ops
	@rm -rf $(B)/assay/initrd; mkdir -p $(B)/assay/initrd
	cp $< $(B)/assay/initrd/init
	chmod 755 $(B)/assay/initrd/init; touch -d @0 $(B)/assay/initrd/init
	cd $(B)/assay/initrd && echo init | cpio -o -H newc -R 0:0 --reproducible --quiet >../linux-initrd
ASSAY_LINUX := $(B)/assay/linux-ops $(B)/assay/linux-initrd
-include $(LINUX_OPS_OBJ:.o=.d)
