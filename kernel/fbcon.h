// A text console on the linear framebuffer: characters, the usual escape sequences, scrolling. The console's lock guards all of it.
#pragma once

#include "kernel/boot_info.h"

// False: no framebuffer, or no memory.
bool fbcon_init(const struct boot_framebuffer *fb) MUST_CHECK;
// Changes the text in memory only.
void fbcon_write(const void *buf, size_t len);
// Draws what differs from what is on the screen.
void fbcon_draw(void);
unsigned fbcon_columns(void);
unsigned fbcon_rows(void);
