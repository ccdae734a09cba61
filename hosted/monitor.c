// The monitor: commands with QEMU's names, typed on the terminal after Ctrl-A c.
//
// It runs in interrupt context with the BQL held, on top of whatever the guest does, so it works while the guest hangs. Line editing is
// what the fingers do without thinking: backspace, Ctrl-U, Ctrl-C, arrow up for the last line.
#include <string.h>

#include "hosted/hosted.h"
#include "kernel/base/fmt.h"
#include "kernel/machine.h"

static struct { char text[128], last[128]; unsigned len, esc; } line;

static void say(const char *s) { output_term(s, strlen(s)); }

// The machine's texts end lines with \n; the terminal is raw but keeps output processing.
static void say_piece(void *o, const char *s)
{
    (void)o;
    say(s);
}

static void cmd_help(const char *arg);

static void cmd_info(const char *arg)
{
    static const char *const topics[] = {"registers", "jit", "timers", "icount", "profile", "sync-profile"};
    for (unsigned i = 0; i < ARRAY_SIZE(topics); i++)
        if (!strcmp(arg, topics[i])) return machine_info(arg, say_piece, NULL);
    say("info registers     guest registers\n"
        "info jit           translation statistics\n"
        "info timers        the clocks and their armed timers\n"
        "info icount        instructions and virtual time\n"
        "info profile       where the vCPUs' time goes\n"
        "info sync-profile  the big lock: how often it was taken, and for how long\n");
}

static void cmd_profile(const char *arg)
{
    bool on = !strcmp(arg, "on");
    if (on || !strcmp(arg, "off")) machine_profile(on);
    else say("profile: on (from zero) or off; 'info profile' shows it\n");
}

static void cmd_stop(const char *arg)
{
    (void)arg;
    machine_stop();
}

static void cmd_cont(const char *arg)
{
    (void)arg;
    machine_cont();
}

static void cmd_reset(const char *arg)
{
    (void)arg;
    machine_reset();
}

static void cmd_quit(const char *arg)
{
    (void)arg;
    machine_quit();
}

static const struct command {
    const char *name, *shortcut, *help;
    void (*fn)(const char *arg);
} commands[] = {
    {"help", "?", "this list", cmd_help},
    {"info", "i", "info registers, jit, timers, icount, profile, sync-profile", cmd_info},
    {"profile", "prof", "profile on|off: sample what the vCPUs do, for info profile", cmd_profile},
    {"stop", "s", "stop the guest", cmd_stop},
    {"cont", "c", "let it go on", cmd_cont},
    {"system_reset", "reset", "reset the guest", cmd_reset},
    {"quit", "q", "leave the emulator", cmd_quit},
};

static void cmd_help(const char *arg)
{
    (void)arg;
    char buf[128];
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        fmt_snprintf(buf, sizeof buf, "%-14s %s\n", commands[i].name, commands[i].help);
        say(buf);
    }
}

static void prompt(void) { say("(cupel) "); }

void monitor_open(void)
{
    line.len = 0;
    say("\nCupel monitor - type 'help' for the commands, Ctrl-A c to go back\n");
    prompt();
}

static void line_run(char *s)
{
    while (*s == ' ') s++;
    char *end = s + strlen(s);
    while (end > s && end[-1] == ' ') *--end = 0;
    if (!*s) return;
    char *arg = strchr(s, ' ');
    if (arg) {
        *arg++ = 0;
        while (*arg == ' ') arg++;
    } else {
        arg = end;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(s, commands[i].name) && strcmp(s, commands[i].shortcut)) continue;
        commands[i].fn(arg);
        return;
    }
    char buf[200];
    fmt_snprintf(buf, sizeof buf, "unknown command: '%s' - 'help' lists them\n", s);
    say(buf);
}

static void line_clear(void)
{
    while (line.len) {
        line.len--;
        say("\b \b");
    }
}

// Escape sequences: only arrow up means something, the rest is swallowed up to its final letter. Returns true when byte belonged to one.
static bool line_escape(u8 byte)
{
    if (byte == 27) {
        line.esc = 1;
        return true;
    }
    if (!line.esc) return false;
    if (line.esc == 1 && (byte == '[' || byte == 'O')) {
        line.esc = 2;
        return true;
    }
    bool done = (byte >= '@' && byte <= '~') || line.esc == 1;
    if (done && line.esc == 2 && byte == 'A') {
        line_clear();
        line.len = (unsigned)strlen(line.last);
        memcpy(line.text, line.last, line.len);
        output_term(line.text, line.len);
    }
    if (done) line.esc = 0;
    return true;
}

static void line_enter(void)
{
    say("\n");
    line.text[line.len] = 0;
    if (line.len) memcpy(line.last, line.text, line.len + 1);
    line.len = 0;
    line_run(line.text);
    prompt();
}

void monitor_key(u8 byte)
{
    if (line_escape(byte)) return;
    if (byte == '\r' || byte == '\n') {
        line_enter();
    } else if (byte == 127 || byte == 8) {
        if (line.len) {
            line.len--;
            say("\b \b");
        }
    } else if (byte == 21) {
        line_clear();
    } else if (byte == 3) {
        line.len = 0;
        say("^C\n");
        prompt();
    } else if (byte >= ' ' && line.len < sizeof line.text - 1) {
        line.text[line.len++] = (char)byte;
        output_term(&byte, 1);
    }
}
