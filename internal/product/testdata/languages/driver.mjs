// Makes the requests that lines of standard input say, and answers each line with one.
import { createInterface } from 'node:readline'
import { inspect } from 'node:util'
import { connect, TokenSource } from './tokenbroker.mjs'

const [address, caFile, certFile, keyFile, , credential] = process.argv.slice(2)
const broker = connect(address, { protos: process.env.PROTOS.split(':'), caFile, certFile, keyFile })
const source = new TokenSource(broker, credential)

async function ask(order) {
  try {
    const body = order.stream ? new Blob([order.stream]).stream() : order.body
    const answer = await source.fetch(order.url, { method: order.method, headers: order.headers, body, duplex: order.stream && 'half' })
    return { status: answer.status, body: await answer.text(), shown: answer.url.split('?')[0] }
  } catch (err) {
    return { error: inspect(err) }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line)
  console.log(JSON.stringify(await Promise.all(Array.from({ length: order.times ?? 1 }, () => ask(order)))))
}
process.exit(0)
