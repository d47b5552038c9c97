//go:build !unix

package doctor

import "io/fs"

func ownerOf(fs.FileInfo) (uid int, ok bool) { return 0, false }

func deviceOf(string) (dev uint64, ok bool) { return 0, false }
