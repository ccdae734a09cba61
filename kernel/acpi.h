// What Cupel wants to know from the host's ACPI tables, found once at start and read-only afterwards. No AML is interpreted: the one thing
// needed from the DSDT, the sleep type of S5, is found by its byte pattern.
#pragma once

#include "kernel/base/types.h"

enum { ACPI_CORES = 256, ACPI_IOAPICS = 8 };

struct acpi_ioapic { u64 phys; u32 gsi_base; };
// An ISA interrupt's way to the I/O APIC; identity, edge, active high where the MADT says nothing.
struct acpi_isa { u32 gsi; bool level, low; };
// Generic address: space 0 memory, 1 I/O ports.
struct acpi_gas { u8 space, bits, offset, access; u64 address; } __attribute__((packed));

struct acpi_info {
    u64 lapic_phys;
    unsigned cores;                    // usable ones
    u32 apic_id[ACPI_CORES];
    unsigned ioapics;
    struct acpi_ioapic ioapic[ACPI_IOAPICS];
    struct acpi_isa isa[16];
    u64 hpet_phys;                     // 0: none
    struct acpi_gas pm_timer;          // address 0: none
    bool pm_timer_32;
    u64 mcfg_phys;                     // base of segment 0's ECAM; 0: none
    bool has_spcr;
    struct acpi_gas spcr;              // a 16550
    u32 spcr_gsi, spcr_baud;

    bool has_s5, has_reset;
    struct acpi_gas pm1a_cnt, pm1b_cnt, reset;
    u8 s5_typa, s5_typb, reset_value, acpi_enable;
    u16 smi_cmd;
};

void acpi_init(u64 rsdp_phys);
const struct acpi_info *acpi_info(void);
