/** Small parts that every page uses. */
import { ActionIcon, Alert, Button, Card, Code, CopyButton, Group, Stack, Text, Title, Tooltip } from '@mantine/core'
import { useSyncExternalStore, type ReactNode } from 'react'

import { Failure } from '../api/client'
import { CopyIcon, DoneIcon } from '../app/icons'
import { ago, clock, moment } from '../pure/time'

/** One clock for all that says "ago"; it stands still while nobody looks. */
const STEP_MS = 1_000
let now = Date.now()
const watchers = new Set<() => void>()
let ticking: ReturnType<typeof setInterval> | undefined

function watch(watcher: () => void): () => void {
  watchers.add(watcher)
  ticking ??= setInterval(() => {
    now = Date.now()
    for (const each of watchers) each()
  }, STEP_MS)
  return () => {
    watchers.delete(watcher)
    if (watchers.size > 0) return
    clearInterval(ticking)
    ticking = undefined
  }
}

export function useNow(): number {
  return useSyncExternalStore(watch, () => now)
}

export function Ago({ time }: { time: string | null | undefined }): ReactNode {
  const at = moment(time)
  const here = useNow()
  return (
    <time dateTime={at === undefined ? undefined : new Date(at).toISOString()} title={at === undefined ? undefined : new Date(at).toLocaleString()}>
      {ago(at, here)}
    </time>
  )
}

/** What is shown may be old, and says so. */
export function AsOf({ time, seen }: { time: string | number | null | undefined; seen?: string | null | undefined }): ReactNode {
  const here = useNow()
  const at = typeof time === 'number' ? time : moment(time)
  return (
    <Text size="sm" c="dimmed" component="span">
      {at === undefined ? 'not read yet' : `as of ${clock(at, here)}`}
      {seen !== undefined && (
        <>
          {' · last seen '}
          <Ago time={seen} />
        </>
      )}
    </Text>
  )
}

export function Command({ text, label }: { text: string; label?: string }): ReactNode {
  return (
    <div className="command">
      <code tabIndex={0}>{text}</code>
      <Copy text={text} label={label ?? 'Copy the command'} />
    </div>
  )
}

export function Copy({ text, label }: { text: string; label: string }): ReactNode {
  return (
    <CopyButton value={text}>
      {({ copied, copy }) => (
        <Tooltip label={copied ? 'Copied' : label}>
          <ActionIcon variant="subtle" aria-label={label} onClick={copy}>
            {copied ? <DoneIcon size={16} /> : <CopyIcon size={16} />}
          </ActionIcon>
        </Tooltip>
      )}
    </CopyButton>
  )
}

/** Nothing is there, and what to do about it. */
export function Empty({ title, children, commands = [] }: { title: string; children?: ReactNode; commands?: string[] }): ReactNode {
  return (
    <Card>
      <Stack gap="sm" py="sm">
        <Title order={3}>{title}</Title>
        {children !== undefined && <Text c="dimmed">{children}</Text>}
        {commands.map((command) => (
          <Command key={command} text={command} />
        ))}
      </Stack>
    </Card>
  )
}

export function Problem({ error, what, retry }: { error: unknown; what: string; retry?: () => void }): ReactNode {
  const failure = error instanceof Failure ? error : undefined
  return (
    <Alert color="thread" variant="light" title={what} role="alert">
      <Stack gap="xs" align="flex-start">
        <Text size="sm">
          {failure?.message ?? (error instanceof Error ? error.message : String(error))}
          {failure && failure.status > 0 && (
            <>
              {' '}
              <Code>{failure.code}</Code>
            </>
          )}
        </Text>
        {failure && <Text size="sm">{failure.advice}</Text>}
        {retry && (
          <Button size="xs" variant="default" onClick={retry}>
            Try again
          </Button>
        )}
      </Stack>
    </Alert>
  )
}

export function PageHead({ title, children }: { title: ReactNode; children?: ReactNode }): ReactNode {
  return (
    <Group justify="space-between" align="baseline" gap="xs" mb="md">
      <Title order={1}>{title}</Title>
      <Group gap="sm">{children}</Group>
    </Group>
  )
}
