// The xHCI's registers, rings and contexts in memory (xHCI 1.2 chapters 5, 6 and 7). Names are the specification's.
#pragma once

#include "kernel/base/bits.h"

// Capability registers (5.3), from the BAR's beginning.
enum { CAP_LENGTH = 0x00, CAP_HCSPARAMS1 = 0x04, CAP_HCSPARAMS2 = 0x08, CAP_HCCPARAMS1 = 0x10, CAP_DBOFF = 0x14, CAP_RTSOFF = 0x18 };
#define HCC_AC64 BIT(0)        // addresses may have 64 bits
#define HCC_CSZ  BIT(2)        // contexts of 64 bytes
#define HCC_PPC  BIT(3)        // port power is switched

// Operational registers (5.4), from CAP_LENGTH's value.
enum { OP_USBCMD = 0x00, OP_USBSTS = 0x04, OP_PAGESIZE = 0x08, OP_CRCR = 0x18, OP_DCBAAP = 0x30, OP_CONFIG = 0x38, OP_PORTSC = 0x400,
       OP_PORT_STEP = 0x10 };
#define CMD_RUN    BIT(0)
#define CMD_RESET  BIT(1)
#define CRCR_ABORT BIT(2)
#define STS_HALTED BIT(0)
#define STS_HSE    BIT(2)      // host system error
#define STS_CNR    BIT(11)     // controller not ready
#define STS_HCE    BIT(12)     // host controller error

// PORTSC (5.4.8). Bits that are cleared by writing 1 stand among others: a write takes what PORTSC_KEEP names and adds what it means.
#define PORTSC_CCS  BIT(0)     // something is connected
#define PORTSC_PED  BIT(1)     // enabled; writing 1 disables
#define PORTSC_PR   BIT(4)
#define PORTSC_PP   BIT(9)
#define PORTSC_CSC  BIT(17)
#define PORTSC_WRC  BIT(19)
#define PORTSC_PRC  BIT(21)
#define PORTSC_WPR  BIT(31)    // warm reset, USB 3
#define PORTSC_CHANGES2 0x00760000u  // what may have changed; USB 2 ports have fewer of them, the rest is reserved
#define PORTSC_CHANGES3 0x00fe0000u
#define PORTSC_KEEP    0x0e00c200u   // power, indicator, wake-up enables
static inline unsigned portsc_link(u32 v) { return v >> 5 & 15; }
static inline unsigned portsc_speed(u32 v) { return v >> 10 & 15; }

// Runtime registers (5.5), interrupter 0.
enum { RT_IMAN = 0x20, RT_ERSTSZ = 0x28, RT_ERSTBA = 0x30, RT_ERDP = 0x38 };
#define ERDP_BUSY BIT(3)

// Extended capabilities (7): a list, in 32-bit words.
enum { EXT_LEGACY = 1, EXT_PROTOCOL = 2 };
#define LEGACY_BIOS_OWNED BIT(16)
#define LEGACY_OS_OWNED   BIT(24)
#define LEGACY_CTL_KEEP   0x001e1feeu   // USBLEGCTLSTS: reserved bits; without the others no SMI comes any more
#define LEGACY_CTL_EVENTS 0xe0000000u

// Transfer request blocks (6.4).
struct xhci_trb { u64 param; u32 status, control; };
_Static_assert(sizeof(struct xhci_trb) == 16, "xHCI 4.11.1");
enum trb_type {
    TRB_NORMAL = 1, TRB_SETUP, TRB_DATA, TRB_STATUS, TRB_LINK = 6, TRB_ENABLE_SLOT = 9, TRB_DISABLE_SLOT, TRB_ADDRESS_DEVICE,
    TRB_CONFIGURE_ENDPOINT, TRB_EVALUATE_CONTEXT, TRB_RESET_ENDPOINT, TRB_STOP_ENDPOINT, TRB_SET_TR_DEQUEUE,
    TRB_TRANSFER_EVENT = 32, TRB_COMMAND_EVENT, TRB_PORT_EVENT, TRB_CONTROLLER_EVENT = 37,
};
#define TRB_CYCLE  BIT(0)
#define TRB_TOGGLE BIT(1)      // link: the cycle bit changes behind it
#define TRB_ISP    BIT(2)      // an event for a short packet
#define TRB_IOC    BIT(5)      // an event when done
#define TRB_IDT    BIT(6)      // the parameter is the data
#define TRB_IN     BIT(16)     // data and status stage
static inline u32 trb_make(enum trb_type t) { return (u32)t << 10; }
static inline enum trb_type trb_type(const struct xhci_trb *t) { return (enum trb_type)(t->control >> 10 & 63); }
static inline unsigned trb_slot(const struct xhci_trb *t) { return t->control >> 24; }
static inline unsigned trb_endpoint(const struct xhci_trb *t) { return t->control >> 16 & 31; }

// Completion codes (6.4.5).
enum xhci_code { CC_SUCCESS = 1, CC_STALL = 6, CC_SHORT = 13, CC_RING_STOPPED = 24, CC_ABORTED = 25 };

// Contexts (6.2), of 32 or 64 bytes each: in an input context the control context is first, then the slot's and those of the endpoints by
// their number (DCI): 2 * number + 1 for IN and control, 2 * number for OUT. A device context begins with the slot's.
enum { SLOT_DW0, SLOT_DW1, SLOT_DW2, SLOT_DW3 };
#define SLOT_HUB BIT(26)
enum { EP_DW0, EP_DW1, EP_DEQUEUE_LO, EP_DEQUEUE_HI, EP_DW4 };
enum { EP_DISABLED, EP_RUNNING, EP_HALTED, EP_STOPPED, EP_ERROR };
enum { EP_CONTROL = 4, EP_BULK_OUT = 2, EP_BULK_IN = 6 };
