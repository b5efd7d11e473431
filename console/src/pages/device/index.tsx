/** One device: who it is, when it was heard of, and its tabs. */
import { Alert, Group, Skeleton, Stack, Text, Title } from '@mantine/core'
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { Link, Outlet, useRouterState } from '@tanstack/react-router'
import { useEffect, useRef, useState, type ReactNode } from 'react'

import { Failure } from '../../api/client'
import { deviceKey, deviceQuery } from '../../api/queries'
import type { DeviceView } from '../../api/types'
import { deviceRoute } from '../../app/router'
import { TABS } from '../../app/tabs'
import { useLive } from '../../live/browser'
import { AsOf, Empty, Problem } from '../../parts/common'
import { DeviceState } from '../../parts/state'
import { DeviceContext } from './context'

export function Device(): ReactNode {
  const { device: id } = deviceRoute.useParams()
  const queries = useQueryClient()
  const { data, error, refetch, dataUpdatedAt } = useQuery(deviceQuery(id))
  const [gone, setGone] = useState<string>()
  useLive(
    `device:${encodeURIComponent(id)}`,
    ({ data: news }) => {
      setGone(undefined)
      queries.setQueryData(deviceKey(id), news as unknown as DeviceView)
    },
    setGone,
  )
  if (error instanceof Failure && error.status === 404) {
    return (
      <Empty title={`There is no device ${id}`} commands={[`selvedge device create ${quote(id)}`]}>
        It may have been removed, or the name is mistyped. <Link to="/devices">All devices</Link>. To register it:
      </Empty>
    )
  }
  if (error && !data) return <Problem error={error} what="The device cannot be read" retry={() => void refetch()} />
  if (!data) return <Skeleton height={360} />
  return (
    <Stack gap="md">
      <Head id={id} view={data} readAt={dataUpdatedAt} />
      {gone !== undefined && (
        <Alert color="thread" title="No more news of this device" role="status">
          {gone}
        </Alert>
      )}
      <Tabs id={id} />
      <DeviceContext value={{ id, view: data }}>
        <Outlet />
      </DeviceContext>
    </Stack>
  )
}

function Tabs({ id }: { id: string }): ReactNode {
  const place = useRef<HTMLElement>(null)
  const path = useRouterState({ select: (state) => state.location.pathname })
  // On a phone the row of tabs is wider than the window.
  useEffect(() => {
    // In braces: new browsers give a promise back, which is no way to clean up.
    void place.current?.querySelector('[data-status="active"]')?.scrollIntoView({ block: 'nearest', inline: 'center' })
  }, [path])
  return (
    <nav className="tabs" aria-label="Tabs of the device" ref={place}>
      {TABS.map(([tab, name]) => (
        <Link key={tab} to={tab} params={{ device: id }} activeOptions={{ exact: true, includeSearch: false }}>
          {name}
        </Link>
      ))}
    </nav>
  )
}

function Head({ id, view, readAt }: { id: string; view: DeviceView; readAt: number }): ReactNode {
  const { device } = view
  return (
    <Group justify="space-between" gap="xs">
      <Group gap="md">
        <Title order={1}>{id}</Title>
        <DeviceState device={{ ...device, status: device.status ?? '', connectionState: device.connectionState ?? '', stale: view.stale, lastActivityTime: device.lastActivityTime ?? null }} />
        {view.edge && (
          <Text size="sm" c="dimmed">
            edge device
          </Text>
        )}
      </Group>
      <AsOf time={readAt} seen={device.connectionState === 'Connected' ? undefined : (device.lastActivityTime ?? null)} />
    </Group>
  )
}

function quote(text: string): string {
  return /^[\w.:-]+$/u.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
