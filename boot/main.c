// cupel.efi: the UEFI application. Reads \cupel.conf from the volume it was loaded from, shows the menu, loads the chosen guest's
// files and the embedded kernel, and leaves the firmware for good. Whatever goes wrong before that ends in the menu again, with a
// message.
#include "boot/boot.h"


EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *st);

#define CONF "\\cupel.conf"

static bool main_config(struct boot *b, struct config *c)
{
    char err[CONFIG_ERROR];
    struct boot_file f;
    if (!boot_volume_open(b, err, sizeof(err)) || !boot_file_read(b, CONF, &f, err, sizeof(err))) {
        boot_print(b, "! %s\n", err);
        return false;
    }
    config_parse(c, CONF, (const char *)f.phys, f.size);
    boot_pages_free(b, f.phys, f.size);
    return true;
}

// One entry, up to the kernel. Returns only when it failed.
static void main_boot(struct boot *b, const struct config_entry *e)
{
    char err[CONFIG_ERROR];
    struct boot_info *info;
    u64 entry;
    if (e->error[0]) {
        boot_print(b, "! %s\n", e->error);
        return;
    }
    boot_print(b, "Booting [%s]\n", e->name);
    if (!boot_prepare(b, e, &info, &entry, err, sizeof(err))) {
        boot_print(b, "! %s\n", err);
        return;
    }
    boot_enter_kernel(b, info, entry);
}

static void main_wait_key(struct boot *b)
{
    boot_print(b, "Press a key to go back to the firmware.\n");
    while (boot_key(b) == KEY_NONE) boot_stall_ms(b, 50);
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *st)
{
    static struct config conf;
    struct boot b = {.image = image, .st = st, .bs = st->BootServices};
    b.bs->SetWatchdogTimer(0, 0, 0, NULL);   // the firmware's five minutes are not for a menu that waits
    boot_console_init(&b);
    boot_print(&b, "Cupel %s (build %s)\n", CUPEL_VERSION, CUPEL_BUILD);
    if (!main_config(&b, &conf)) {
        main_wait_key(&b);
        return EFI_NOT_FOUND;
    }
    boot_console_use_serial(&b, conf.serial_port, conf.serial_baud);
    bool countdown = true;
    for (;;) {
        if (conf.error[0]) countdown = false;
        int i = boot_menu(&b, &conf, &countdown);
        if (i < 0) return EFI_ABORTED;
        main_boot(&b, &conf.entries[i]);
    }
}
