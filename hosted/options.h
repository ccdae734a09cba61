// The command line: QEMU's option names, read into what main() starts. Errors name the option and the mend and end the process with 1.
#pragma once

#include "assay/assay.h"
#include "kernel/machine.h"

enum serial_kind { SERIAL_STDIO, SERIAL_FILE, SERIAL_PTY, SERIAL_NULL };

struct options {
    struct machine_config machine;      // blobs are filled by main from the paths
    const char *kernel, *initrd;
    enum serial_kind serial;
    const char *serial_file;
    const char *trace_file;             // -D; NULL: stderr
    unsigned trace;                     // TRACE_* of -d
    bool want_assay;
    struct assay_options assay;
    const char *assay_out;              // where the results go
    bool virtio_serial;                 // -device virtio-serial-pci: the controller, which wants a port
};

// Walks "a,b=c,d": each item is copied into buf and split at '='; val is NULL without one. Returns false at the end.
struct item { char buf[256], *key, *val; };
bool item_next(const char **s, struct item *it);

// ---- block_options.c: -drive, -object, and -device virtio-blk-pci (what follows the name) ----
void drive_option(const char *arg);
void object_option(const char *arg);
void drive_device_option(const char *arg);
// All of them were read: opens the files and fills m->drive[].
void drives_open(struct machine_config *m);

// ---- assay.c ----
// The assay in place of a guest; the machine has been created by main. Returns the exit code.
int hosted_assay(const struct options *o);
// What an assay's machine must have.
void hosted_assay_config(struct machine_config *m);

void options_parse(struct options *o, int argc, char **argv);
// Prints "cupel: text" and ends the process with 1.
NORETURN void options_fail(const char *fmt, ...) PRINTF(1, 2);
