package topology

import (
	"fmt"
	"io"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// LoseSYNACKs has a link of the host's lose one in two of the IPv4 SYN-ACKs that
// come in, but no more than three in a row to one port, until the result is closed.
func (h *Host) LoseSYNACKs(name string) (loss io.Closer, err error) {
	return loss, h.Do(func() error {
		loss, err = loseSYNACKs(name)
		return err
	})
}

func loseSYNACKs(name string) (io.Closer, error) {
	const (
		drop, pass         = 1, 2 // of XDP
		proto, port, flags = 14 + 9, 14 + 20 + 2, 14 + 20 + 13
		inRow              = 3
	)
	lost, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 16}) // by port, in a row
	if err != nil {
		return nil, fmt.Errorf("loss on %s: %w", name, err)
	}
	defer lost.Close()
	return losing(name, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, flags+1),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R5, asm.R2, proto, asm.Byte),
		asm.JNE.Imm(asm.R5, 6, "pass"),
		asm.LoadMem(asm.R5, asm.R2, flags, asm.Byte),
		asm.And.Imm(asm.R5, 0x12),
		asm.JNE.Imm(asm.R5, 0x12, "pass"),
		asm.LoadMem(asm.R6, asm.R2, port, asm.Half),
		asm.StoreMem(asm.R10, -4, asm.R6, asm.Word),
		asm.LoadMapPtr(asm.R1, lost.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.LoadMem(asm.R8, asm.R7, 0, asm.Word),
		asm.FnGetPrandomU32.Call(),
		asm.And.Imm(asm.R0, 1),
		asm.JEq.Imm(asm.R0, 0, "end the row"),
		asm.JGE.Imm(asm.R8, inRow, "end the row"),
		asm.Add.Imm(asm.R8, 1),
		asm.StoreMem(asm.R7, 0, asm.R8, asm.Word),
		asm.Mov.Imm(asm.R0, drop),
		asm.Return(),
		asm.StoreImm(asm.R7, 0, 0, asm.Word).WithSymbol("end the row"),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
		asm.Return(),
	})
}

// LoseUDP has a link of the host's lose what comes in over IPv4 to a UDP port in
// frames of more bytes than these, until the result is closed.
func (h *Host) LoseUDP(name string, port uint16, longer int) (loss io.Closer, err error) {
	return loss, h.Do(func() error {
		loss, err = loseUDP(name, port, longer)
		return err
	})
}

func loseUDP(name string, port uint16, longer int) (io.Closer, error) {
	const (
		drop, pass  = 1, 2 // of XDP
		proto, dest = 14 + 9, 14 + 20 + 2
	)
	return losing(name, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, dest+2),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R5, asm.R2, proto, asm.Byte),
		asm.JNE.Imm(asm.R5, 17, "pass"),
		asm.LoadMem(asm.R5, asm.R2, dest, asm.Half),
		asm.HostTo(asm.BE, asm.R5, asm.Half),
		asm.JNE.Imm(asm.R5, int32(port), "pass"),
		asm.Sub.Reg(asm.R3, asm.R2),
		asm.JLE.Imm(asm.R3, int32(longer), "pass"),
		asm.Mov.Imm(asm.R0, drop),
		asm.Return(),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
		asm.Return(),
	})
}

// losing attaches an XDP program to a link, until the result is closed.
func losing(name string, program asm.Instructions) (io.Closer, error) {
	l, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	if err := rlimit.RemoveMemlock(); err != nil { // before Linux 5.11
		return nil, fmt.Errorf("loss on %s: %w", name, err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: program})
	if err != nil {
		return nil, fmt.Errorf("loss on %s: %w", name, err)
	}
	defer prog.Close()
	attached, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Index, Flags: link.XDPGenericMode})
	if err != nil {
		return nil, fmt.Errorf("loss on %s: %w", name, err)
	}
	return attached, nil
}

// Lose has a link of the host's lose one in so many, a power of two, of all packets
// that come in, at random, until the result is closed.
func (h *Host) Lose(name string, oneIn int32) (loss io.Closer, err error) {
	const drop, pass = 1, 2 // of XDP
	return loss, h.Do(func() error {
		loss, err = losing(name, asm.Instructions{
			asm.FnGetPrandomU32.Call(),
			asm.And.Imm(asm.R0, oneIn-1),
			asm.JEq.Imm(asm.R0, 0, "drop"),
			asm.Mov.Imm(asm.R0, pass),
			asm.Return(),
			asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"),
			asm.Return(),
		})
		return err
	})
}
