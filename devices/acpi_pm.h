// Where the ACPI fixed hardware answers: shared by the chip (acpi_pm.c) and by the tables that describe it (acpi_tables.c).
#pragma once

enum {
    ACPI_PM1_EVT = 0x600,      // status word, enable word
    ACPI_PM1_CNT = 0x604,
    ACPI_PM_TMR = 0x608,
    ACPI_PM_LEN = 0x10,        // whole block
    ACPI_RESET_PORT = 0xcf9,
    ACPI_RESET_VALUE = 0x06,   // hard reset: RST_CPU with SYS_RST
    ACPI_S5_TYPE = 5,          // SLP_TYP of soft-off, as \_S5 says
    ACPI_SCI = 9,              // GSI and ISA IRQ
};
