// Tokens of a broker on requests of fetch. Copy it, with the contract's proto files: docs/node.md says how.
import { readFileSync } from 'node:fs'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

/** A connection by mutual TLS, for the whole process. protos are the directories with tokenbroker/v1 and buf/validate. */
export function connect(address, { protos, caFile, certFile, keyFile }) {
  const files = loader.loadSync('tokenbroker/v1/token_broker_service.proto', { includeDirs: protos, longs: Number })
  const { TokenBrokerService } = grpc.loadPackageDefinition(files).tokenbroker.v1
  return new TokenBrokerService(address, grpc.credentials.createSsl(readFileSync(caFile), readFileSync(keyFile), readFileSync(certFile)))
}

const milliseconds = (time) => time.seconds * 1000 + time.nanos / 1e6
const fresh = (token, until) => token && Date.now() < milliseconds(token[until])

/** Make one for each credential and selection ({ scopes, audience, … }), and keep it: what it has in memory is what it saves. */
export class TokenSource {
  #broker; #request; #held; #running; #rejected = ''; #askAgain = 0

  constructor(broker, credential, selection = {}) {
    this.#broker = broker
    this.#request = { ...selection, credential }
  }

  /** A token that is valid now, from memory until its refresh_time, and longer while there is no other. An error of gRPC says why there is none. */
  async token() {
    const held = this.#held
    if (fresh(held, 'refreshTime')) return held
    if (!fresh(held, 'expireTime')) return this.#next()
    if (Date.now() >= this.#askAgain) {
      this.#askAgain = Date.now() + 10_000
      this.#next().catch(() => {}) // it is asked for again
    }
    return held
  }

  /** The API has refused it: it is not answered again, and the broker hears of it when the next one is asked for. */
  reject(token) {
    if (this.#held?.tokenId !== token.tokenId) return
    this.#held = this.#running = undefined
    this.#rejected = token.tokenId
  }

  #next() { // one question for all who wait
    const running = this.#running ??= this.#ask(this.#rejected).then((token) => {
      if (this.#running === running) [this.#held, this.#rejected, this.#askAgain] = [token, '', 0] // else it was asked before what was rejected since
      return token
    }).finally(() => { if (this.#running === running) this.#running = undefined })
    return running
  }

  async #ask(rejected) {
    const call = (request) => new Promise((done, fail) =>
      this.#broker.getToken(request, { deadline: Date.now() + 30_000 }, (err, answer) => err ? fail(err) : done(answer.token)))
    try {
      return await call({ ...this.#request, rejectedTokenId: rejected })
    } catch (err) {
      if (!rejected || err.code !== grpc.status.PERMISSION_DENIED) throw err
      return call(this.#request) // it may not invalidate: it gets what there is
    }
  }

  /** fetch with the token on. A redirect of a GET or HEAD within the API is followed; any other is the answer. */
  fetch = async (address, init = {}) => {
    let url = new URL(address), retried = false
    for (let hops = 0; ; hops++) {
      if (url.username || url.password) throw new TypeError('an address has neither user nor password here') // fetch would say the whole address
      const token = await this.token()
      const api = new URL(token.baseUrl)
      if (url.origin !== api.origin) throw new TypeError(`${this.#request.credential} has tokens for ${api.origin}, and this request is for ${url.origin}`)
      const answer = await fetch(dress(url, token), { ...init, headers: dressed(init.headers, token), redirect: 'manual' })
      if (answer.status === 401) {
        this.reject(token)
        if (retried || !replayable(init.body)) return answer
        const next = await this.token().catch(() => token) // the API has answered, and the broker may have no better
        if (next.tokenId === token.tokenId) return answer
        retried = true
      } else {
        const to = URL.parse(answer.headers.get('location') ?? ':', url) // what is no address leads nowhere
        if (!to || answer.status < 300 || answer.status > 399 || !reads(init) || to.origin !== api.origin || to.username || to.password || hops === 20) return answer
        url = to
      }
      await answer.body?.cancel()
    }
  }
}

const has = (fields, name) => fields.some((f) => f.name === name)

function dress(url, { queryParameters = [] }) { // in the place of those of the same names; the others stay as they were written
  if (!queryParameters.length) return url
  const kept = url.search.slice(1).split('&').filter((pair) => pair && ![...new URLSearchParams(pair).keys()].some((name) => has(queryParameters, name)))
  const out = new URL(url)
  out.search = [...kept, ...queryParameters.map((q) => `${encodeURIComponent(q.name)}=${encodeURIComponent(q.value)}`)].join('&')
  return out
}

function dressed(headers, token) {
  const out = new Headers(headers)
  for (const h of token.headers ?? []) out.set(h.name, h.value)
  if (token.cookies?.length) {
    const kept = (out.get('cookie') ?? '').split(';').map((c) => c.trim()).filter((c) => c && !has(token.cookies, c.split('=')[0]))
    out.set('cookie', [...kept, ...token.cookies.map((c) => `${c.name}=${c.value}`)].join('; '))
  }
  return out
}

const reads = ({ method = 'GET', redirect = 'follow' }) => /^(GET|HEAD)$/i.test(method) && redirect === 'follow'

const replayable = (body) => body == null || typeof body === 'string' || ArrayBuffer.isView(body) || body instanceof ArrayBuffer ||
  body instanceof URLSearchParams || body instanceof FormData || body instanceof Blob
