// -drive, -object iothread and -device virtio-blk-pci: QEMU's spelling, read into machine_config.drive[].
//
// A drive is a file (-drive) and a device that shows it to the guest: implied by if=virtio, named by -device ...,drive=ID for if=none.
// Options may come in any order, so names are resolved and files opened at the end (drives_open).
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "hosted/block.h"
#include "hosted/options.h"

enum { QUEUES_MAX = 16, SERIAL_MAX = 20 };

static struct drive {
    struct block_file file;
    const char *id, *iface;
    bool taken;                     // by a -device
} drives[MACHINE_DRIVES];
static unsigned n_drives;

static struct device { const char *drive, *serial, *iothread; unsigned queues; } devices[MACHINE_DRIVES];
static unsigned n_devices;

static const char *iothreads[MACHINE_IOTHREADS];
static unsigned n_iothreads;

static const char *keep(const char *s)
{
    char *p = strdup(s);
    if (!p) options_fail("no memory");
    return p;
}

static bool is(const struct item *it, const char *key) { return !strcmp(it->key, key); }

static void cache_set(struct block_file *f, const char *v)
{
    f->direct = f->ignore_flush = f->write_through = false;
    if (!strcmp(v, "none")) f->direct = true;
    else if (!strcmp(v, "unsafe")) f->ignore_flush = true;
    else if (!strcmp(v, "writethrough")) f->write_through = true;
    else if (!strcmp(v, "directsync")) f->direct = f->write_through = true;
    else if (strcmp(v, "writeback")) options_fail("-drive cache='%s': use writeback, none, writethrough, directsync or unsafe", v);
}

static bool on_off(const char *opt, const char *v)
{
    bool on = !strcmp(v, "on") || !strcmp(v, "yes") || !strcmp(v, "true");
    if (!on && strcmp(v, "off") && strcmp(v, "no") && strcmp(v, "false")) options_fail("%s='%s': use on or off", opt, v);
    return on;
}

static void drive_item(struct drive *d, const struct item *it)
{
    const char *v = it->val ? it->val : "";
    if (is(it, "file")) d->file.path = keep(v);
    else if (is(it, "id")) d->id = keep(v);
    else if (is(it, "readonly") || is(it, "read-only")) d->file.read_only = !it->val || on_off("-drive readonly", v);
    else if (is(it, "cache")) cache_set(&d->file, v);
    else if (is(it, "if")) {
        if (strcmp(v, "virtio") && strcmp(v, "none")) options_fail("-drive if='%s' is not there yet; use if=virtio, or if=none with -device virtio-blk-pci", v);
        d->iface = keep(v);
    } else if (is(it, "format")) {
        if (strcmp(v, "raw")) options_fail("-drive format='%s' is unknown; only raw images are possible (qemu-img convert -O raw makes one)", v);
    } else if (is(it, "media")) {
        if (strcmp(v, "disk")) options_fail("-drive media='%s': use disk", v);
    } else {
        options_fail("-drive: '%s' is unknown; there are file, if, format, readonly, cache, id, media", it->key);
    }
}

void drive_option(const char *a)
{
    struct item it;
    if (n_drives == MACHINE_DRIVES) options_fail("-drive: more than %d drives are not possible", MACHINE_DRIVES);
    struct drive *d = &drives[n_drives++];
    while (item_next(&a, &it)) drive_item(d, &it);
    if (!d->file.path || !*d->file.path) options_fail("-drive without a file: add file=PATH");
    if (!d->iface) options_fail("-drive file=%s: say how the guest sees it: add if=virtio", d->file.path);
    if (!strcmp(d->iface, "none") && !d->id) options_fail("-drive file=%s,if=none: add id=NAME, for -device virtio-blk-pci,drive=NAME", d->file.path);
    for (unsigned i = 0; d->id && i + 1 < n_drives; i++)
        if (drives[i].id && !strcmp(drives[i].id, d->id)) options_fail("-drive id=%s: there is one of that name already", d->id);
}

void drive_device_option(const char *a)
{
    static const char form[] = "drive=ID[,num-queues=N][,serial=TEXT][,iothread=ID]";
    struct item it;
    if (n_devices == MACHINE_DRIVES) options_fail("-device virtio-blk-pci: more than %d disks are not possible", MACHINE_DRIVES);
    struct device *d = &devices[n_devices++];
    while (item_next(&a, &it)) {
        const char *v = it.val ? it.val : "";
        if (is(&it, "drive")) d->drive = keep(v);
        else if (is(&it, "serial")) d->serial = keep(v);
        else if (is(&it, "iothread")) d->iothread = keep(v);
        else if (is(&it, "num-queues")) d->queues = (unsigned)atoi(v);
        else options_fail("-device virtio-blk-pci: '%s' is unknown; it has %s", it.key, form);
        if (is(&it, "num-queues") && (d->queues < 1 || d->queues > QUEUES_MAX))
            options_fail("-device virtio-blk-pci,num-queues=%s: use 1 to %d", v, QUEUES_MAX);
    }
    if (!d->drive || !*d->drive) options_fail("-device virtio-blk-pci: no drive; it has %s", form);
    if (d->serial && strlen(d->serial) > SERIAL_MAX) options_fail("-device virtio-blk-pci,serial=%s: at most %d characters", d->serial, SERIAL_MAX);
}

void object_option(const char *a)
{
    static const char form[] = "there is iothread,id=NAME";
    const char *whole = a, *id = NULL;
    struct item it;
    if (!item_next(&a, &it) || it.val || strcmp(it.key, "iothread")) options_fail("-object: '%s' is unknown; %s", whole, form);
    while (item_next(&a, &it)) {
        if (!is(&it, "id") || !it.val || !*it.val) options_fail("-object iothread: '%s' is unknown; %s", it.key, form);
        id = keep(it.val);
    }
    if (!id) options_fail("-object iothread without a name; %s", form);
    for (unsigned i = 0; i < n_iothreads; i++)
        if (!strcmp(iothreads[i], id)) options_fail("-object iothread,id=%s: there is one of that name already", id);
    if (n_iothreads == MACHINE_IOTHREADS) options_fail("-object iothread: more than %d are not possible", MACHINE_IOTHREADS);
    iothreads[n_iothreads++] = id;
}

// Its number from 1; 0: served under the BQL.
static unsigned iothread_find(const char *id)
{
    for (unsigned i = 0; id && i < n_iothreads; i++)
        if (!strcmp(iothreads[i], id)) return i + 1;
    if (id) options_fail("-device virtio-blk-pci,iothread=%s: there is none of that name; add -object iothread,id=%s", id, id);
    return 0;
}

static void drive_open(struct machine_config *m, const struct drive *d, const struct device *dev)
{
    char err[512];
    if (m->ndrives == MACHINE_DRIVES) options_fail("more than %d disks are not possible", MACHINE_DRIVES);
    struct block *b = block_file_open(&d->file, err, sizeof err);
    if (!b) options_fail("-drive: %s", err);
    unsigned queues = dev && dev->queues ? dev->queues : m->smp < QUEUES_MAX ? m->smp : QUEUES_MAX;
    m->drive[m->ndrives++] = (struct machine_drive){.block = b, .queues = queues, .serial = dev ? dev->serial : NULL,
        .iothread = iothread_find(dev ? dev->iothread : NULL)};
}

static struct drive *drive_find(const char *id)
{
    for (unsigned i = 0; i < n_drives; i++)
        if (drives[i].id && !strcmp(drives[i].id, id)) return &drives[i];
    options_fail("-device virtio-blk-pci,drive=%s: there is no -drive with id=%s", id, id);
}

void drives_open(struct machine_config *m)
{
    m->niothreads = n_iothreads;
    for (unsigned i = 0; i < n_drives; i++)
        if (!strcmp(drives[i].iface, "virtio")) drive_open(m, &drives[i], NULL);
    for (unsigned i = 0; i < n_devices; i++) {
        struct drive *d = drive_find(devices[i].drive);
        if (d->taken || !strcmp(d->iface, "virtio"))
            options_fail("-device virtio-blk-pci,drive=%s: that drive has a device already%s", d->id, d->taken ? "" : "; give it if=none");
        d->taken = true;
        drive_open(m, d, &devices[i]);
    }
    for (unsigned i = 0; i < n_drives; i++)
        if (!strcmp(drives[i].iface, "none") && !drives[i].taken)
            options_fail("-drive id=%s has no device: add -device virtio-blk-pci,drive=%s", drives[i].id, drives[i].id);
}
