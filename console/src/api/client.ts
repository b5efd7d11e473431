/** Calls of the public API. One place knows the cookie's companion header, time limits and errors. */
import { isObject, parsed, type Json } from '../pure/json'
import { Pace } from '../pure/pace'
import type { ContentFault, Session } from './types'

/** A call that takes longer than this is given up, in milliseconds. */
const CALL_MS_MAX = 20_000
/** Calls that may run at the same time; the others wait. Browsers allow six to one origin. */
const CALLS_MAX = 4
/** Calls that one tab makes within `PACE_MS` at most; the others wait. No view needs nearly as many. */
const PACE_CALLS_MAX = 120
/** Milliseconds. */
const PACE_MS = 10_000

export class Failure extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: ContentFault[] = [],
  ) {
    super(message)
    this.name = 'Failure'
  }

  /** What a person can do about it. */
  get advice(): string {
    if (this.status === 0) return 'Check that the hub runs and that this machine reaches it. The console tries again by itself.'
    if (this.status === 401) return 'Run `selvedge console` on the hub for a fresh sign-in link.'
    if (this.status === 403) return 'Your sign-in does not allow this. Ask for a link with more rights.'
    if (this.status === 404) return 'It may have been removed. Go back to the list of devices.'
    if (this.status === 412) return 'Somebody changed it meanwhile. Load it again and repeat your change.'
    if (this.status === 429) return 'The hub is asked too often. Wait a few seconds.'
    if (this.status >= 500) return 'The hub has trouble. Its log says more.'
    return 'Correct it and try again.'
  }
}

let session: Session | undefined
let signedOut: (() => void) | undefined

export function useSession(value: Session | undefined): void {
  session = value
}

export function currentSession(): Session | undefined {
  return session
}

/** Called once when a call is answered 401: the session is over. */
export function onSignedOut(handler: () => void): void {
  signedOut = handler
}

let running = 0
const waiting: (() => void)[] = []
const pace = new Pace(PACE_CALLS_MAX, PACE_MS)

async function slot<T>(work: () => Promise<T>): Promise<T> {
  if (running >= CALLS_MAX) await new Promise<void>((go) => waiting.push(go))
  running += 1
  try {
    for (let wait = pace.take(Date.now()); wait > 0; wait = pace.take(Date.now())) await new Promise((go) => setTimeout(go, wait))
    return await work()
  } finally {
    running -= 1
    waiting.shift()?.()
  }
}

export type Options = {
  body?: Json
  /** Sent as it is, instead of `body`. */
  raw?: string
  ifMatch?: string
  signal?: AbortSignal
  /** Milliseconds. */
  limit?: number
}

/** One call; `T` is what the API promises. Throws `Failure`. */
export async function call<T>(method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE', path: string, options: Options = {}): Promise<T> {
  const headers: Record<string, string> = {}
  if (options.body !== undefined || options.raw !== undefined) headers['content-type'] = 'application/json'
  if (options.ifMatch !== undefined) headers['if-match'] = `"${options.ifMatch}"`
  if (method !== 'GET' && session) headers['x-selvedge-csrf'] = session.csrfToken
  const limit = AbortSignal.timeout(options.limit ?? CALL_MS_MAX)
  const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit
  const body = options.raw ?? (options.body === undefined ? null : JSON.stringify(options.body))
  const response = await slot(async () => {
    try {
      return await fetch(path, { method, headers, body, signal, credentials: 'same-origin', cache: 'no-store' })
    } catch (error) {
      if (options.signal?.aborted) throw error
      throw new Failure(0, 'Unreachable', limit.aborted ? 'the hub does not answer in time' : 'the hub cannot be reached')
    }
  })
  const text = await response.text()
  if (response.ok) return (text === '' ? undefined : JSON.parse(text)) as T
  const failure = failureOf(response, text)
  if (failure.status === 401 && session) {
    session = undefined
    signedOut?.()
  }
  throw failure
}

function failureOf(response: Response, text: string): Failure {
  const body = parsed(text)
  const said = isObject(body) && typeof body.Message === 'string' ? body.Message : ''
  const code = response.headers.get('iothub-errorcode') ?? `${response.status}`
  // Errors of methods carry JSON inside the message, as Azure's do.
  const inner = said.startsWith('{') ? parsed(said) : undefined
  const words = isObject(inner) && typeof inner.message === 'string' ? inner.message : said.replace(/^ErrorCode:\w+;/u, '')
  const details = isObject(body) && Array.isArray(body.details) ? (body.details as unknown as ContentFault[]) : []
  return new Failure(response.status, code, words || `the hub answered ${response.status}`, details)
}

/** A path from names; each is encoded. */
export function path(...names: string[]): string {
  return `/${names.map((name) => encodeURIComponent(name)).join('/')}`
}

export function twinPath(device: string, module: string | null): string {
  return module === null ? path('twins', device) : path('twins', device, 'modules', module)
}
