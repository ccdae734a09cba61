// The assay's payload on the bare processor, as far as a process can: maps its window, loads the ELF, calls user_job. Prints results as a
// guest does ("result JOB TEST CPU TICKS CHECKSUM MIN MAX EVENTS"), for tests/boot/payload_test.py to compare.
//
// Usage: payload_native PAYLOAD.ELF NAME:N[:CPUS] ...
//        payload_native layout     "NAME OFFSET" of what a test changes in the image
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "assay/abi.h"

static struct assay_header *const header = (struct assay_header *)ASSAY_VIRT;

static void fail(const char *what, const char *detail)
{
    fprintf(stderr, "payload_native: %s: %s\n", what, detail);
    exit(1);
}

static void window_map(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE;
    void *p = mmap((void *)ASSAY_VIRT, ASSAY_WINDOW, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0);
    if (p != (void *)ASSAY_VIRT) fail("the window cannot be mapped", strerror(errno));
}

static void image_load(const char *path)
{
    static u8 file[8 << 20];
    FILE *f = fopen(path, "rb");
    if (!f) fail(path, strerror(errno));
    size_t size = fread(file, 1, sizeof file, f);
    fclose(f);
    const Elf32_Ehdr *e = (const Elf32_Ehdr *)file;
    if (size < sizeof *e || memcmp(e->e_ident, ELFMAG "\1", 5)) fail(path, "no 32-bit ELF");
    for (unsigned i = 0; i < e->e_phnum; i++) {
        const Elf32_Phdr *p = (const Elf32_Phdr *)(file + e->e_phoff) + i;
        if (p->p_type != PT_LOAD) continue;
        if (p->p_vaddr < ASSAY_VIRT || p->p_vaddr + p->p_memsz > ASSAY_VIRT + ASSAY_WINDOW || p->p_offset + p->p_filesz > size)
            fail(path, "a segment lies outside of the window or the file");
        memcpy((void *)(u64)p->p_vaddr, file + p->p_offset, p->p_filesz);
    }
    if (header->magic != ASSAY_MAGIC || header->version != ASSAY_VERSION || header->size != sizeof *header)
        fail(path, "not this version's payload");
}

static const struct assay_test *table(void) { return (const struct assay_test *)header->table; }

static void job_add(const char *text)
{
    char name[ASSAY_NAME];
    unsigned long long n;
    unsigned cpus = 1;
    if (sscanf(text, "%23[^:]:%llu:%u", name, &n, &cpus) < 2) fail(text, "not NAME:N[:CPUS]");
    for (u32 i = 0; i < header->n_tests; i++) {
        if (strcmp(table()[i].name, name)) continue;
        header->pass.job[header->pass.n_jobs++] = (struct assay_job){i, cpus, n};
        return;
    }
    fail(name, "there is no such test");
}

struct part { pthread_t thread; u64 job, cpu; };

static u64 user_job(u64 job, u64 cpu) { return ((u64 (*)(u64, u64))header->user_job)(job, cpu); }

static void *part_run(void *opaque)
{
    struct part *p = opaque;
    user_job(p->job, p->cpu);
    return NULL;
}

static void job_run(u64 job)
{
    struct part part[ASSAY_CPUS];
    u32 cpus = header->pass.job[job].cpus;
    for (u32 i = 1; i < cpus; i++) {
        part[i] = (struct part){.job = job, .cpu = i};
        if (pthread_create(&part[i].thread, NULL, part_run, &part[i])) fail("pthread_create", "no more threads");
    }
    user_job(job, 0);
    for (u32 i = 1; i < cpus; i++) pthread_join(part[i].thread, NULL);
    if (header->error[0]) fail("error", header->error);
    const struct assay_result (*r)[ASSAY_CPUS] = (const struct assay_result (*)[ASSAY_CPUS])header->results;
    for (u32 i = 0; i < cpus; i++)
        printf("result %llu %s %u %llu 0x%llx 0 0 0\n", (unsigned long long)job, table()[header->pass.job[job].test].name, i,
               (unsigned long long)r[job][i].ticks, (unsigned long long)r[job][i].checksum);
}

static int layout(void)
{
#define IN_HEADER(field) printf(#field " %zu\n", offsetof(struct assay_header, field))
#define IN_ROW(field) printf("row." #field " %zu\n", offsetof(struct assay_test, field))
    IN_HEADER(table);
    IN_HEADER(n_tests);
    IN_HEADER(pass.n_jobs);
    IN_HEADER(pass.cpus);
    IN_HEADER(pass.apic_ids);
    IN_HEADER(pass.job);
    IN_ROW(name);
    IN_ROW(run);
    printf("row.size %zu\n", sizeof(struct assay_test));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "layout")) return layout();
    if (argc < 3) fail("usage", "payload_native PAYLOAD.ELF NAME:N[:CPUS] ...");
    window_map();
    image_load(argv[1]);
    for (int i = 2; i < argc && i - 2 < ASSAY_JOBS; i++) job_add(argv[i]);
    for (u32 i = 0; i < header->pass.n_jobs; i++) job_run(i);
    printf("done\n");
    return 0;
}
