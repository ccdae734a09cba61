// Menu output and input. The firmware's console usually includes the serial port (OVMF) or does not (most PCs). To show every line
// once on each, a UART named in the configuration is written directly only when no firmware driver holds a serial device.
#include "boot/boot.h"

#include <stdarg.h>

#include "kernel/base/fmt.h"

static u8 port_in(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static void port_out(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }

static EFI_GUID guid_serial = SERIAL_IO_PROTOCOL;

// True when a firmware driver (the terminal driver) sits on a serial device.
static bool console_firmware_has_serial(struct boot *b)
{
    EFI_HANDLE *handles;
    UINTN n;
    if (b->bs->LocateHandleBuffer(ByProtocol, &guid_serial, NULL, &n, &handles) != EFI_SUCCESS) return false;
    bool used = false;
    for (UINTN i = 0; i < n; i++) {
        EFI_OPEN_PROTOCOL_INFORMATION_ENTRY *open;
        UINTN m;
        if (b->bs->OpenProtocolInformation(handles[i], &guid_serial, &open, &m) != EFI_SUCCESS) continue;
        for (UINTN j = 0; j < m; j++) used |= (open[j].Attributes & EFI_OPEN_PROTOCOL_BY_DRIVER) != 0;
        b->bs->FreePool(open);
    }
    b->bs->FreePool(handles);
    return used;
}

void boot_console_init(struct boot *b)
{
    b->st->ConOut->EnableCursor(b->st->ConOut, FALSE);
    b->st->ConOut->ClearScreen(b->st->ConOut);
}

void boot_console_use_serial(struct boot *b, u32 port, u32 baud)
{
    if (port == 0 || port == BOOT_SERIAL_AUTO || console_firmware_has_serial(b)) return;
    u16 p = (u16)port;
    if (port_in((u16)(p + 5)) == 0xff) return;   // no such UART
    b->raw_serial = p;
    port_out((u16)(p + 1), 0);
    if (baud) {
        u16 div = (u16)(115200 / baud);
        port_out((u16)(p + 3), 0x83);
        port_out(p, (u8)div);
        port_out((u16)(p + 1), (u8)(div >> 8));
    }
    port_out((u16)(p + 3), 3);
    port_out((u16)(p + 2), 7);
    port_out((u16)(p + 4), 3);
}

static void console_raw_putc(u16 p, char c)
{
    for (unsigned spin = 0; spin < 1000000 && !(port_in((u16)(p + 5)) & 0x20); spin++) {}
    port_out(p, (u8)c);
}

void boot_print(struct boot *b, const char *fmt, ...)
{
    static char text[1024];
    static CHAR16 wide[2 * sizeof(text)];
    va_list ap;
    va_start(ap, fmt);
    fmt_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    unsigned n = 0;
    for (const char *s = text; *s; s++) {
        if (*s == '\n') wide[n++] = '\r';
        wide[n++] = (u8)*s;
        if (b->raw_serial) {
            if (*s == '\n') console_raw_putc(b->raw_serial, '\r');
            console_raw_putc(b->raw_serial, *s);
        }
    }
    wide[n] = 0;
    b->st->ConOut->OutputString(b->st->ConOut, wide);
}

int boot_key(struct boot *b)
{
    if (b->raw_serial && (port_in((u16)(b->raw_serial + 5)) & 1)) return port_in(b->raw_serial);
    EFI_INPUT_KEY k;
    if (b->st->ConIn->ReadKeyStroke(b->st->ConIn, &k) != EFI_SUCCESS) return KEY_NONE;
    if (k.ScanCode == SCAN_UP) return KEY_UP;
    if (k.ScanCode == SCAN_DOWN) return KEY_DOWN;
    return k.UnicodeChar ? k.UnicodeChar : KEY_NONE;
}

void boot_stall_ms(struct boot *b, unsigned ms) { b->bs->Stall(ms * 1000); }
