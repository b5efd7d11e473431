/** The door: a one-time link, exchanged for a session that scripts cannot read. */
import { Anchor, Button, Center, Loader, Paper, PasswordInput, Stack, Text, Title } from '@mantine/core'
import { createContext, useContext, useEffect, useRef, useState, type FormEvent, type ReactNode } from 'react'

import { Failure, onSignedOut, useSession as keepSession } from '../api/client'
import { exchange, readSession } from '../api/queries'
import type { Session } from '../api/types'
import { startLive, stopLive } from '../live/browser'
import { Command, Problem } from '../parts/common'
import { Mark } from './icons'

type Door = { kind: 'opening' } | { kind: 'open'; session: Session } | { kind: 'closed'; why?: string | undefined } | { kind: 'failed'; error: unknown }

const SessionContext = createContext<{ session: Session; leave: (why: string) => void } | undefined>(undefined)

export function useDoor(): { session: Session; leave: (why: string) => void } {
  const held = useContext(SessionContext)
  if (!held) throw new Error('outside of the sign-in')
  return held
}

/** Takes the token out of the address at once, before anything else could see it. */
function tokenFromAddress(): string | undefined {
  const token = new URLSearchParams(location.hash.slice(1)).get('token')
  if (token === null) return undefined
  const path = location.pathname.replace(/sign-in\/?$/u, '')
  history.replaceState(null, '', path + location.search)
  return token
}
const handed = tokenFromAddress()
/** Whether this page was opened by a link that signs in; otherwise a session may be there. */
export const cameByLink = handed !== undefined
/** Asked before anything is drawn: the first view waits for it. */
let asked: Promise<Session> | undefined = handed === undefined ? readSession() : undefined
asked?.catch(() => undefined)

export function SignIn({ children, onSignedIn }: { children: ReactNode; onSignedIn: () => void }): ReactNode {
  const [door, setDoor] = useState<Door>({ kind: 'opening' })
  const tried = useRef(false)

  const enter = (session: Session, resumed: boolean): void => {
    keepSession(session)
    // What was read for a session that goes on is its own.
    if (!resumed) onSignedIn()
    startLive(session.csrfToken)
    setDoor({ kind: 'open', session })
  }
  const leave = (why?: string): void => {
    keepSession(undefined)
    stopLive()
    setDoor({ kind: 'closed', why })
  }
  const attempt = async (work: Promise<Session>, why?: string, resumed = false): Promise<void> => {
    try {
      enter(await work, resumed)
    } catch (error) {
      if (error instanceof Failure && (error.status === 401 || error.status === 400)) leave(why)
      else setDoor({ kind: 'failed', error })
    }
  }
  const open = (): void => {
    if (handed !== undefined && !tried.current) {
      tried.current = true
      void attempt(exchange(handed), 'This link was used already, or it is too old.')
    } else {
      void attempt(asked ?? readSession(), undefined, true)
      asked = undefined
    }
  }
  useEffect(() => {
    onSignedOut(() => leave('The session is over.'))
    if (door.kind === 'opening' && !tried.current) open()
    // Once; what follows is by hand.
  }, [])

  if (door.kind === 'open') return <SessionContext.Provider value={{ session: door.session, leave }}>{children}</SessionContext.Provider>
  return (
    <Center mih="100dvh" p="md" component="main">
      {door.kind === 'opening' && <Loader aria-label="Signing in" />}
      {door.kind === 'failed' && (
        <Stack maw={480}>
          <Problem error={door.error} what="The console cannot sign in" retry={open} />
        </Stack>
      )}
      {door.kind === 'closed' && <Closed why={door.why} submit={(token) => void attempt(exchange(token), 'This link was used already, or it is too old.')} />}
    </Center>
  )
}

function Closed({ why, submit }: { why: string | undefined; submit: (token: string) => void }): ReactNode {
  const [text, setText] = useState('')
  const send = (event: FormEvent): void => {
    event.preventDefault()
    const token = /token=([\w-]+)/u.exec(text)?.[1] ?? text.trim()
    if (token !== '') submit(token)
  }
  return (
    <Paper withBorder p="xl" maw={520} radius="md" className="mantine-Card-root">
      <Stack>
        <Paper bg="denim.9" p="xs" w={64} h={64} radius="md">
          <Mark size={44} />
        </Paper>
        <Title order={1}>Sign in</Title>
        {why !== undefined && (
          <Text role="alert" fw={600}>
            {why}
          </Text>
        )}
        <Text>The hub has no passwords. On its machine, print a link that works once, and open it here:</Text>
        <Command text="selvedge console" />
        <form onSubmit={send}>
          <Stack gap="sm">
            <PasswordInput label="Or paste the link" value={text} onChange={(event) => setText(event.currentTarget.value)} autoComplete="off" />
            <Button type="submit" disabled={text.trim() === ''}>
              Sign in
            </Button>
          </Stack>
        </form>
        <Text size="sm" c="dimmed">
          Your browser does not know the hub's certificate? The authority is in <code>ca.pem</code> in the hub's data folder. <Anchor href="/console/">Start again</Anchor>
        </Text>
      </Stack>
    </Paper>
  )
}
