// The boot menu: one line per entry, the same text on screen and serial line, a countdown that any key stops. It is redrawn as new lines
// rather than by moving the cursor, which every console and every log file can show.
#include "boot/boot.h"

static void menu_show(struct boot *b, const struct config *c, unsigned sel)
{
    if (c->error[0]) boot_print(b, "! %s\n", c->error);
    for (unsigned i = 0; i < c->count; i++)
        boot_print(b, " %c %u  %s%s\n", i == sel ? '>' : ' ', i + 1, c->entries[i].name, c->entries[i].error[0] ? "  (has an error)" : "");
    boot_print(b, "Number or arrows and Enter: boot.  r: restart the machine.  q: back to the firmware.\n");
}

// Waits for a key; KEY_NONE when the countdown ran out.
static int menu_wait(struct boot *b, int seconds)
{
    for (int tenths = seconds * 10; seconds < 0 || tenths > 0; tenths--) {
        if (seconds >= 0 && tenths % 10 == 0) boot_print(b, "\rBooting in %d s, any key stops. ", tenths / 10);
        int k = boot_key(b);
        if (k != KEY_NONE) {
            if (seconds >= 0) boot_print(b, "\n");
            return k;
        }
        boot_stall_ms(b, 100);
    }
    boot_print(b, "\n");
    return KEY_NONE;
}

int boot_menu(struct boot *b, const struct config *c, bool *countdown)
{
    unsigned sel = c->default_index;
    if (c->count == 1 && *countdown) {   // nothing to choose
        *countdown = false;
        return 0;
    }
    menu_show(b, c, sel);
    for (;;) {
        int k = menu_wait(b, *countdown && c->count ? c->timeout : -1);
        *countdown = false;
        if (k >= '1' && k <= '9' && (unsigned)(k - '1') < c->count) return k - '1';
        switch (k) {
        case KEY_NONE: case '\r': case '\n':
            if (c->count) return (int)sel;
            break;
        case KEY_UP: sel = sel ? sel - 1 : sel; menu_show(b, c, sel); break;
        case KEY_DOWN: sel = sel + 1 < c->count ? sel + 1 : sel; menu_show(b, c, sel); break;
        case 'r': b->st->RuntimeServices->ResetSystem(EfiResetCold, EFI_SUCCESS, 0, NULL); break;
        case 'q': return -1;
        default: break;
        }
    }
}
