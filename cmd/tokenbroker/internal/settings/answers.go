package settings

import (
	"net"
	"strconv"
	"strings"
)

// answersAt reports whether the broker itself listens at an address that somebody would connect to. It asks nobody: a name other than localhost is none of ours.
func (s *Settings) answersAt(network, address string) bool {
	if network != "tcp" {
		for _, own := range s.sockets() {
			if settled(own) == settled(address) || same(own, address) {
				return true
			}
		}
		return false
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	all := append([]string{s.MetricsListen, s.ProbesListen}, s.Listen...)
	for _, l := range s.Named() {
		all = append(all, l.Addresses...)
	}
	for _, own := range all {
		if h, p, err := net.SplitHostPort(own); err == nil && samePort(p, port) && reaches(host, h) {
			return true
		}
	}
	return false
}

// samePort reports whether both are one port; 0 is none.
func samePort(a, b string) bool {
	x, err := strconv.ParseUint(a, 10, 16)
	y, yErr := strconv.ParseUint(b, 10, 16)
	return err == nil && yErr == nil && x == y && x != 0
}

// reaches reports whether who connects to one host comes to who listens on another.
func reaches(to, on string) bool {
	every := len(addresses(on)) == 0 || addresses(on)[0].IsUnspecified()
	for _, ip := range addresses(to) {
		if ip.IsUnspecified() { // the system makes this machine of it
			ip = net.IPv4(127, 0, 0, 1)
		}
		if every && isOurs(ip) {
			return true
		}
		for _, other := range addresses(on) {
			if other.Equal(ip) {
				return true
			}
		}
	}
	return false
}

// addresses are those of a host that is no name, or localhost.
func addresses(host string) []net.IP {
	if strings.EqualFold(host, "localhost") {
		return []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	if ip := net.ParseIP(host); ip != nil {
		return []net.IP{ip}
	}
	return nil
}

// isOurs reports whether an address is this machine's.
func isOurs(ip net.IP) bool {
	if ip.IsLoopback() {
		return true
	}
	own, _ := net.InterfaceAddrs() // where the system does not say, loopback alone is known
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}
