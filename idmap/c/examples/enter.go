// Starts a command in a user namespace whose map is cut to fit this one: the same as enter.c, in Go.
//
//	go run enter.go "b:0:1000:1 b:1:100000:65536" id
package main

// #cgo pkg-config: idmap
// #include <stdlib.h>
// #include <idmap.h>
import "C"

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"
)

// failure is what a call says of why it failed.
func failure(errno C.int, message *C.char) error {
	defer C.idmap_string_free(message)
	if message == nil {
		return syscall.Errno(errno)
	}
	return errors.New(C.GoString(message))
}

// split cuts the map of specs to what this process' user namespace can give.
func split(specs string) (*C.idmap, error) {
	var wanted, parent, written *C.idmap
	var cut *C.idmap_split
	var message *C.char

	text := C.CString(specs)
	defer C.free(unsafe.Pointer(text))
	if errno := C.idmap_parse(text, &wanted, &message); errno != 0 {
		return nil, failure(errno, message)
	}
	defer C.idmap_free(wanted)
	var maps [2]*C.char
	for i, path := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		lines, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		maps[i] = C.CString(string(lines))
		defer C.free(unsafe.Pointer(maps[i]))
	}
	if errno := C.idmap_parse_proc(maps[0], maps[1], &parent, &message); errno != 0 {
		return nil, failure(errno, message)
	}
	defer C.idmap_free(parent)
	if errno := C.idmap_split_new(wanted, parent, &cut, &message); errno != 0 {
		return nil, failure(errno, message)
	}
	defer C.idmap_split_free(cut)
	if errno := C.idmap_split_written(cut, &written); errno != 0 {
		return nil, failure(errno, nil)
	}
	return written, nil
}

func lines(all *C.idmap, kind uint32) []syscall.SysProcIDMap {
	count := C.idmap_extents(all, kind, nil, 0)
	if count == 0 {
		return nil
	}
	extents := make([]C.struct_idmap_extent, count)
	C.idmap_extents(all, kind, &extents[0], count)
	var maps []syscall.SysProcIDMap
	for _, e := range extents {
		maps = append(maps, syscall.SysProcIDMap{ContainerID: int(e.lower), HostID: int(e.upper), Size: int(e.count)})
	}
	return maps
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: enter SPECS COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	written, err := split(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	command := exec.Command(os.Args[2], os.Args[3:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER,
		UidMappings:                lines(written, C.IDMAP_UID),
		GidMappings:                lines(written, C.IDMAP_GID),
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
	}
	C.idmap_free(written)
	if err := command.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
