# Cupel. One Makefile, everything it makes is in build/. `make help` lists the targets.
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
B := build

WARN := -Wall -Wextra -Werror -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wno-unused-parameter
# What runs while the guest's vector and x87 state is in the host's registers must not touch them.
REGSONLY := -mgeneral-regs-only -mno-red-zone
BASEFLAGS := -std=gnu11 -O2 -g -I. $(WARN) -fno-strict-aliasing -fno-omit-frame-pointer -MMD -MP

TCG_SRC := $(wildcard tcg/ir/*.c tcg/host/*.c tcg/run/*.c tcg/guest/x86/*.c) $(wildcard tcg/run/*.S)
DEV_SRC := $(wildcard devices/*.c)
BASE_SRC := $(wildcard kernel/base/*.c) kernel/machine.c
HOSTED_SRC := $(wildcard hosted/*.c)

# ---- hosted: Cupel as a Linux process ----
HOSTED_OBJ := $(patsubst %,$(B)/hosted/%.o,$(TCG_SRC) $(DEV_SRC) $(BASE_SRC) $(HOSTED_SRC))
$(B)/hosted/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) $(REGSONLY) -c -o $@ $<
$(B)/hosted/%.S.o: %.S
	@mkdir -p $(@D)
	$(CC) $(BASEFLAGS) -c -o $@ $<
$(B)/cupel: $(HOSTED_OBJ)
	$(CC) -o $@ $^ -lpthread -lrt -lZydis

.PHONY: hosted help clean
hosted: $(B)/cupel ## build/cupel, the Linux process with QEMU's options
help: ## this list
	@grep -hE '^[a-z0-9_-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20
clean: ## removes build/
	rm -rf $(B)
-include $(HOSTED_OBJ:.o=.d)
