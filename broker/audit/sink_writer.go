package audit

import (
	"io"
	"time"
)

// A writerSink writes to standard output. What has been taken counts as written.
type writerSink struct {
	to   io.Writer
	torn bool
	buf  []byte
}

// write implements sink: a line at a time, so that what others write to the same place stays between lines.
func (s *writerSink) write(lines []*entry) (int, error) {
	for i, l := range lines {
		buf := s.buf[:0]
		if s.torn {
			buf = append(buf, '\n')
		}
		buf = append(buf, l.data...)
		s.buf = buf
		n, err := s.to.Write(buf)
		if err == nil && n < len(buf) {
			err = io.ErrShortWrite
		}
		if n > 0 && n <= len(buf) {
			s.torn = buf[n-1] != '\n'
		}
		if err != nil {
			if n >= len(buf)-1 { // all but its end
				i++
			}
			return i, err
		}
	}
	return len(lines), nil
}

func (s *writerSink) sync() error   { return nil }
func (s *writerSink) reopen() error { return nil }
func (s *writerSink) close()        {}

// abort implements sink, where what is written to knows deadlines.
func (s *writerSink) abort() {
	if d, knows := s.to.(interface{ SetWriteDeadline(time.Time) error }); knows {
		_ = d.SetWriteDeadline(time.Unix(1, 0)) // the process ends
	}
}
