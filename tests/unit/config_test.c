// The parser of \cupel.conf: what is accepted, and that what is not is named with the line and the mend, and stays with the entry it is
// in.
// link: boot/config.c kernel/base/fmt.c tests/unit/panic.c
#include <stdio.h>
#include <string.h>

#include "boot/config.h"

static unsigned passed, failed;
static struct config c;

static void check(bool ok, const char *what, const char *got)
{
    if (ok) passed++;
    else {
        failed++;
        printf("FAIL %s: %s\n", what, got);
    }
}

// One line in the first of two entries, or above them; what must be in its error ("" none, else a piece of the text).
static const struct { bool global; const char *line, *error; } rows[] = {
    {false, "memory = 16", ""},
    {false, "memory = 2G", ""},
    {false, "memory = 15", "t.conf:2: bad value for `memory'; give the guest's RAM"},
    {false, "memory = 16M x", "`memory'"},
    {false, "memory = 99999999999999999999", "`memory'"},
    {false, "memory = 65537K", "`memory'"},
    {false, "smp = 0", "`smp'"},
    {false, "accel = tcg", ""},
    {false, "accel = tcg,exit=poll,chain=off,tb-size=4", ""},
    {false, "accel = tcg,tb-size=512M", ""},
    {false, "accel = tcg,tb-size=4095K", "(4M..512M)"},
    {false, "accel = tcg,tb-size=1", "(4M..512M)"},
    {false, "accel = tcg,tb-size=513M", "(4M..512M)"},
    {false, "accel = tcg,exit=never", "exit=poll"},
    {false, "accel = tcgx", "`accel'"},
    {false, "accel = kvm", "give tcg"},
    {false, "serial = com1,115200", ""},
    {false, "serial = com9", "`serial'"},
    {false, "isa-debug-exit = 0xf4,4", ""},
    {false, "isa-debug-exit = 0xf4,5", "`isa-debug-exit'"},
    {false, "selftest = stick", ""},
    {false, "selftest = sticks", "reset, stick or usb"},
    {false, "device = e1000", "virtio-rng-pci"},
    {false, "device = virtio-serial-pci", "without a port"},
    {false, "no-reboot = perhaps", "on or off"},
    {false, "profile = on", ""},
    {false, "profile = 1", "on or off"},
    {false, "iothread = 1\ndrive = virtio0", ""},
    {false, "iothread = 0\ndrive = \\d\nnum-queues = 16", ""},
    {false, "iothread = 1", "t.conf:2: [one] has `iothread', but no drive"},
    {false, "iothread = 2", "give 1 (a core of the PC"},
    {false, "iothread = 1x", "`iothread'"},
    {false, "num-queues = 4", "t.conf:2: [one] has `num-queues', but no drive"},
    {false, "num-queues = 17", "from 1 to 16"},
    {false, "num-queues = 0", "from 1 to 16"},
    {false, "frobnicate = 1", "unknown key `frobnicate'"},
    {false, "just words", "neither"},
    {false, "timeout = 5", "unknown key `timeout'"},
    {false, "# a comment", ""},
    {true, "timeout = 3600", ""},
    {true, "timeout = never", ""},
    {true, "timeout = 3601", "t.conf:1: bad value for `timeout'"},
    {true, "default = two", ""},
    {true, "default = three", "names [three], which is not there"},
    {true, "kernel = \\x", "unknown key `kernel'"},
    {true, "[", "bad section header"},
};

static void test_rows(void)
{
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[512];
        int n = snprintf(text, sizeof text, rows[i].global ? "%s\n[one]\nkernel = \\k\n%s" : "[one]\n%s\nkernel = \\k\n%s", rows[i].line,
                         "[two]\r\n\tkernel=\\k2\t\r\n");
        memset(&c, 0xa5, sizeof c);
        config_parse(&c, "t.conf", text, (size_t)n);
        const char *error = rows[i].global ? c.error : c.entries[0].error;
        check(*rows[i].error ? strstr(error, rows[i].error) != NULL : !*error, rows[i].line, error);
        const struct config_entry *other = &c.entries[1];
        check(c.count == 2 && !other->error[0] && !strcmp(other->kernel, "\\k2"), "the other entry is whole", other->error);
    }
}

static void test_values(void)
{
    static const char text[] = "default = two\n[one]\nkernel = \\k\nmemory = 64M\naccel = tcg,tb-size=8,exit=poll\n"
                               "isa-debug-exit = 0x501,2\ndrive = virtio2\nnum-queues = 3\niothread = 1\n[two]\nkernel = /k";
    config_parse(&c, "t.conf", text, sizeof text - 1);
    const struct config_entry *e = &c.entries[0];
    check(!c.error[0] && c.default_index == 1, "default", c.error);
    check(e->memory == 64 << 20 && e->tb_size == 8 << 20 && e->exit_poll && !e->no_chain, "memory and accel", e->error);
    check(e->debug_exit_base == 0x501 && e->debug_exit_size == 2, "isa-debug-exit", e->error);
    check(e->iothread == 1 && e->num_queues == 3 && config_drive_host(e) == 2, "drive, iothread and num-queues", e->error);
    check(c.entries[1].iothread == 0 && c.entries[1].num_queues == 0 && c.entries[1].tb_size == 0 && c.entries[1].memory == 512 << 20, "defaults", c.entries[1].error);
    config_parse(&c, "t.conf", "", 0);
    check(strstr(c.error, "no boot entry") != NULL, "empty", c.error);
}

int main(void)
{
    test_rows();
    test_values();
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
