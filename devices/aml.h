// Writing AML, the byte code of ACPI tables (ACPI 6.4 chapter 20.2), by calls: each call appends one term; what contains others is
// opened and closed. Package lengths are patched in when closed, so that writing is one pass.
#pragma once

#include "kernel/base/types.h"

struct aml {
    u8 *buf;
    size_t cap, len;      // running past cap sets `full` and drops bytes: checked once, at the end
    bool full;
};

void aml_byte(struct aml *a, u8 b);
void aml_bytes(struct aml *a, const void *p, size_t n);
void aml_le(struct aml *a, u64 v, unsigned bytes);           // little endian, zero beyond the eighth byte
void aml_int(struct aml *a, u64 v);                          // shortest constant
void aml_string(struct aml *a, const char *s);
// "_HID", "_SB_", "\\_S5_", "PCI0": segments of four, one or two of them, optional root
void aml_path(struct aml *a, const char *path);
void aml_name(struct aml *a, const char *name);              // Name(name, ...): the value follows
void aml_name_int(struct aml *a, const char *name, u64 v);
void aml_eisaid(struct aml *a, const char *name, const char *id);   // Name(name, EisaId(id)), id like "PNP0A08"

// Openers return what aml_close wants.
size_t aml_open_scope(struct aml *a, const char *path);
size_t aml_open_device(struct aml *a, const char *name);
size_t aml_open_method(struct aml *a, const char *name, unsigned args);
size_t aml_open_package(struct aml *a, unsigned count);
size_t aml_open_if(struct aml *a);                           // the predicate follows
size_t aml_open_else(struct aml *a);
void aml_close(struct aml *a, size_t opened);
void aml_buffer(struct aml *a, const void *p, size_t n);

// Resource descriptors (6.4.2, 6.4.3), written between aml_open_crs and aml_close_crs.
struct aml_crs { size_t pkg, start; };
struct aml_crs aml_open_crs(struct aml *a, const char *name);
void aml_close_crs(struct aml *a, struct aml_crs crs);
void aml_res_io(struct aml *a, u16 base, u8 len);
void aml_res_irq(struct aml *a, unsigned irq);               // edge, active high, exclusive
void aml_res_mem32(struct aml *a, u32 base, u32 len, bool writable);
void aml_res_bus(struct aml *a, u16 first, u16 last);                 // windows of a bridge: producer, fixed
void aml_res_io_window(struct aml *a, u16 first, u16 last);
void aml_res_mem_window(struct aml *a, u32 first, u32 last);
