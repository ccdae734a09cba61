// Every function by which somebody reaches a device, called without the BQL, must panic with its name before it touches anything: so the
// devices may be NULL. tools/lint.py sees to it that functions assert at all; here it shows that they do it first and say who. noasan
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/devices.h"
#include "devices/pci.h"
#include "devices/virtio.h"

bool bql_held(void) { return false; }

static struct virtq_elem elem;
static u8 buf[4];
static struct irq wire;
static const struct virtio_ops no_plane;                  // without a data plane
static struct virtio_dev dev = {.ops = &no_plane};
#define CALLS(X) \
    X(irq_set, irq_set(&wire, true)) X(irq_set, irq_pulse(&wire)) \
    X(ioapic_reset, ioapic_reset(NULL)) X(pic_reset, pic_reset(NULL)) X(pit_reset, pit_reset(NULL)) X(hpet_reset, hpet_reset(NULL)) \
    X(rtc_reset, rtc_reset(NULL)) X(serial_reset, serial_reset(NULL)) X(i8042_reset, i8042_reset(NULL)) X(pci_reset, pci_reset(NULL)) \
    X(acpi_pm_reset, acpi_pm_reset(NULL)) X(acpi_pm_power_button, acpi_pm_power_button(NULL)) \
    X(pit_set_irq0_enabled, pit_set_irq0_enabled(NULL, true)) X(rtc_set_irq8_enabled, rtc_set_irq8_enabled(NULL, true)) \
    X(serial_input, (void)serial_input(NULL, 0)) X(i8042_key, (void)i8042_key(NULL, buf, 1)) \
    X(pci_intx_set, pci_intx_set(NULL, true)) \
    X(pci_msix_read, (void)pci_msix_read(NULL, 0, 4)) X(pci_msix_write, pci_msix_write(NULL, 0, 0, 4)) \
    X(virtio_interrupt, virtio_interrupt(&dev, 0, 1)) X(virtq_more, virtq_more(&dev, 0)) \
    X(virtq_enable, if (virtq_enable(&dev, NULL)) return) X(virtq_pop, if (virtq_pop(&dev, 0, &elem)) return) \
    X(virtq_push, virtq_push(&dev, 0, &elem, 0)) X(virtq_signal, virtq_signal(&dev, 0)) \
    X(virtq_read, (void)virtq_read(&dev, &elem, 0, buf, 1)) X(virtq_write, (void)virtq_write(&dev, &elem, 0, buf, 1)) \
    X(virtio_console_input, (void)virtio_console_input(NULL, 0))

static void call(unsigned n)
{
    unsigned i = 0;
#define ONE(name, expr) if (i++ == n) expr;
    CALLS(ONE)
}

int main(void)
{
#define NAME(name, expr) #name,
    static const char *const names[] = {CALLS(NAME)};
    unsigned passed = 0, failed = 0;
    for (unsigned n = 0; n < ARRAY_SIZE(names); n++) {
        char text[512] = "", want[64];
        int p[2], status = 0;
        if (pipe(p) != 0) return 1;
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            dup2(p[1], 2);
            call(n);
            _exit(0);
        }
        close(p[1]);
        for (size_t len = 0; len < sizeof text - 1;) {
            ssize_t r = read(p[0], text + len, sizeof text - 1 - len);
            if (r <= 0) break;
            len += (size_t)r;
        }
        close(p[0]);
        waitpid(pid, &status, 0);
        snprintf(want, sizeof want, "%s without the BQL", names[n]);
        bool ok = WIFSIGNALED(status) && strstr(text, want) && strstr(text, "devices/");
        if (ok) passed++;
        else failed++;
        if (!ok) printf("FAILED: %s: status %#x, %s\n", names[n], status, text);
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
