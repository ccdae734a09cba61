// The guest's benchmark: a static program that runs native, under Cupel and under QEMU, and prints nanoseconds per unit of work.
//
// Each workload has a fixed amount of work per call, is called until it has run for long enough, and its fastest call counts: interrupts
// and first translations fall out. Each has a checksum, printed so that engines can be compared: a fast wrong answer is none.
// Output lines: "bench NAME NS CHECKSUM", between "bench begin" and "bench end".
#include <emmintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t words[1 << 14];
static double numbers[1 << 12];
static unsigned char big[1 << 20], big2[1 << 20];

// Multiply, rotate, compare, branch; no memory.
static uint64_t w_alu(void)
{
    uint64_t a = 0x9e3779b97f4a7c15u, s = 1;
    for (int i = 0; i < 400000; i++) {
        a ^= a << 13;
        a ^= a >> 7;
        a ^= a << 17;
        s = a & 1 ? s * 31 + a : s - (a >> 3);
    }
    return s;
}

// Dependent and independent loads and stores: a sieve, and a walk through a shuffled list.
static uint64_t w_memory(void)
{
    uint32_t n = sizeof words / sizeof *words, at = 0;
    for (uint32_t i = 0; i < n; i++) words[i] = (i * 2654435761u >> 7) & (n - 1);
    uint64_t s = 0;
    for (uint32_t i = 0; i < 200000; i++) {
        at = words[(at + i) & (n - 1)];
        s += at;
        words[i & (n - 1)] ^= at;
    }
    return s;
}

__attribute__((noinline)) static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
// Calls and returns.
static uint64_t w_call(void) { return (uint64_t)fib(24); }

static uint64_t f_add(uint64_t x) { return x + 3; }
static uint64_t f_xor(uint64_t x) { return x ^ 0x55; }
static uint64_t f_mul(uint64_t x) { return x * 5; }
static uint64_t f_rot(uint64_t x) { return x << 7 | x >> 57; }
// Indirect calls through a table, as interpreters do.
static uint64_t w_indirect(void)
{
    static uint64_t (*volatile const table[4])(uint64_t) = {f_add, f_xor, f_mul, f_rot};
    uint64_t x = 1;
    for (int i = 0; i < 200000; i++) x = table[(x ^ (uint64_t)i) & 3](x);
    return x;
}

static uint64_t bits_of(double d)
{
    uint64_t u;
    memcpy(&u, &d, 8);
    return u;
}

// Scalar double, latency: a Newton iteration and a polynomial, each operation waits for the one before.
static uint64_t w_double_latency(void)
{
    double s = 0;
    for (int i = 1; i < 60000; i++) {
        double x = i, r = x * 0.5;
        r = 0.5 * (r + x / r);
        r = 0.5 * (r + x / r);
        s += r * (1.0 + r * (0.25 - r * 1e-6));
    }
    return bits_of(s);
}

// Scalar double, throughput: twelve recurrences that do not wait for each other, all in registers. Here a translator's own instructions
// compete with the program's.
static uint64_t w_double_throughput(void)
{
    enum { CHAINS = 12 };
    double s[CHAINS], c = 0.99951171875, d = 0.03125;
    for (int k = 0; k < CHAINS; k++) s[k] = k;
    for (int i = 0; i < 20000; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++) s[k] = s[k] * c + d;
    }
    uint64_t u = 0;
    for (int k = 0; k < CHAINS; k++) u ^= bits_of(s[k]) << k;
    return u;
}

// The same with memory: a matrix product by tiles of two rows and four columns, eight sums at a time.
static uint64_t w_gemm(void)
{
    enum { N = 32 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (i * 7 + j * 3) % 17 * 0.25;
            b[i][j] = (i * 5 + j * 11) % 13 * 0.5;
        }
    for (int i = 0; i < N; i += 2)
        for (int j = 0; j < N; j += 4) {
            double s[2][4] = {{0}};
            for (int k = 0; k < N; k++) {
#pragma GCC unroll 2
                for (int y = 0; y < 2; y++)
#pragma GCC unroll 4
                    for (int x = 0; x < 4; x++) s[y][x] += a[i + y][k] * b[k][j + x];
            }
            for (int y = 0; y < 2; y++)
                for (int x = 0; x < 4; x++) c[i + y][j + x] = s[y][x];
        }
    double s = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) s += c[i][j] * (i + 1);
    return bits_of(s);
}

// Packed integers and floats.
static uint64_t w_sse2(void)
{
    __m128i a = _mm_set1_epi32(0x12345), s = _mm_setzero_si128();
    __m128d d = _mm_set1_pd(1.0), e = _mm_set1_pd(1.0000001);
    for (int i = 0; i < 100000; i++) {
        a = _mm_add_epi32(_mm_xor_si128(a, _mm_slli_epi32(a, 5)), _mm_shuffle_epi32(a, 0x1b));
        s = _mm_add_epi64(s, _mm_mul_epu32(a, a));
        d = _mm_mul_pd(d, e);
    }
    uint64_t r[2], f[2];
    _mm_storeu_si128((__m128i *)r, s);
    _mm_storeu_pd((double *)f, d);
    return r[0] ^ r[1] ^ f[0];
}

// long double: the x87.
static uint64_t w_x87(void)
{
    volatile long double one = 1.0L;
    long double s = 0;
    for (int i = 1; i < 60000; i++) s += one / ((long double)i * i);
    return (uint64_t)(s * 1e15L);
}

static uint64_t w_matrix(void)
{
    enum { N = 48 };
    double *a = numbers, *b = numbers + N * N / 2;
    static double c[N * N];
    for (int i = 0; i < 4096; i++) numbers[i] = (double)(i % 17) * 0.25;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double t = 0;
            for (int k = 0; k < N; k++) t += a[(i * N + k) & 2047] * b[(k * N + j) & 2047];
            c[i * N + j] = t;
        }
    double s = 0;
    for (int i = 0; i < N * N; i++) s += c[i];
    return (uint64_t)s;
}

static uint64_t w_memcpy(void)
{
    uint64_t s = 0;
    for (int i = 0; i < 64; i++) {
        memcpy(big2, big, 65536);
        big[i] = (unsigned char)(i * 7);
        s += big2[i];
        __asm__ volatile("" ::: "memory");
    }
    return s;
}

// The same amount through SSE2 registers, whatever CPUID makes the C library prefer: what w_memcpy measures may be `rep movsb`.
static uint64_t w_copysse(void)
{
    uint64_t s = 0;
    for (int i = 0; i < 64; i++) {
        for (int k = 0; k < 65536; k += 32) {
            __m128i a = _mm_loadu_si128((const __m128i *)(big + k)), b = _mm_loadu_si128((const __m128i *)(big + k + 16));
            _mm_storeu_si128((__m128i *)(big2 + k), a);
            _mm_storeu_si128((__m128i *)(big2 + k + 16), b);
        }
        big[i] = (unsigned char)(i * 7);
        s += big2[i];
        __asm__ volatile("" ::: "memory");
    }
    return s;
}

static uint64_t w_syscall(void)
{
    uint64_t s = 0;
    for (int i = 0; i < 2000; i++) s += getppid() > 0;
    return s;
}

// Two processes, one byte to and fro.
static uint64_t w_pipe(void)
{
    enum { TURNS = 300 };
    int to[2], from[2];
    char c = 1;
    uint64_t s = 0;
    if (pipe(to) || pipe(from)) return 0;
    pid_t p = fork();
    if (p == 0) {
        for (int i = 0; i < TURNS; i++)
            if (read(to[0], &c, 1) != 1 || write(from[1], &c, 1) != 1) _exit(1);
        _exit(0);
    }
    for (int i = 0; i < TURNS; i++)
        if (write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1) s++;
    waitpid(p, NULL, 0);
    for (int i = 0; i < 2; i++) {
        close(to[i]);
        close(from[i]);
    }
    return s;
}

static uint64_t w_fault(void)
{
    size_t n = 512 * 4096;
    uint64_t s = 0;
    volatile char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 0;
    for (size_t i = 0; i < n; i += 4096) {
        p[i] = 1;
        s += (uint64_t)p[i];
    }
    munmap((void *)p, n);
    return s;
}

static uint64_t w_fork(void)
{
    uint64_t s = 0;
    for (int i = 0; i < 8; i++) {
        pid_t p = fork();
        if (p == 0) _exit(0);
        s += waitpid(p, NULL, 0) == p;
    }
    return s;
}

// Freshly written code: each function is written, run once and overwritten.
static uint64_t w_newcode(void)
{
    static unsigned char *code;
    if (!code) code = mmap(NULL, 65536, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) return 0;
    uint64_t s = 0;
    for (uint32_t i = 0; i < 400; i++) {
        unsigned char *f = code + i % 64 * 1024, *p = f;
        *p++ = 0xb8;                                   // mov eax, i
        memcpy(p, &i, 4);
        p += 4;
        for (int k = 0; k < 20; k++) {                 // add eax, imm8
            *p++ = 0x83;
            *p++ = 0xc0;
            *p++ = (unsigned char)((i + (uint32_t)k) & 0x7f);
        }
        *p = 0xc3;
        uint32_t (*fn)(void);
        memcpy(&fn, &f, sizeof fn);
        s += fn();
    }
    return s;
}

static const struct { const char *name; uint64_t (*fn)(void); } list[] = {
    {"alu", w_alu}, {"memory", w_memory}, {"call", w_call}, {"indirect", w_indirect}, {"double-lat", w_double_latency},
    {"double-thr", w_double_throughput}, {"gemm", w_gemm}, {"sse2", w_sse2}, {"x87", w_x87}, {"matrix", w_matrix}, {"memcpy", w_memcpy},
    {"copysse", w_copysse}, {"syscall", w_syscall}, {"pipe", w_pipe}, {"fault", w_fault}, {"fork", w_fork}, {"newcode", w_newcode},
};

int main(int argc, char **argv)
{
    uint64_t span = (argc > 1 ? strtoull(argv[1], NULL, 10) : 300) * 1000000u;
    printf("bench begin\n");
    for (unsigned i = 0; i < sizeof list / sizeof *list; i++) {
        uint64_t best = UINT64_MAX, sum = 0, first = 0, start = now_ns();
        for (int turn = 0; turn < 3 || now_ns() - start < span; turn++) {
            memset(big, 0, 256);
            uint64_t t = now_ns();
            sum = list[i].fn();
            t = now_ns() - t;
            if (t < best) best = t;
            if (turn == 0) first = sum;
        }
        printf("bench %s %llu %llx\n", list[i].name, (unsigned long long)best, (unsigned long long)first);
        fflush(stdout);
    }
    printf("bench end\n");
    return 0;
}
